"""The names that a pickle of torch's may hold.

Being here allows nothing to be called (see `machine`): it only says that the rest of the file
is still worth reading. Any name that is not here makes the file unsafe.
"""

from __future__ import annotations

# by torch's name for the storage's class or the dtype: safetensors' name, bytes an element
DTYPES: dict[str, tuple[str, int]] = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
    "UntypedStorage": ("U8", 1),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
}
_BUILTINS = """
    bool bytearray bytes complex dict float frozenset int list long object set slice str tuple
    unicode
"""
_OF_TORCH = """
    Size device half float double float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8
    bool
"""
# what torch, and trainers that keep notes beside the weights, put into their files
HARMLESS = frozenset(
    f"{module}.{name}"
    for module, names in {
        "collections": "OrderedDict Counter defaultdict",
        "torch": f"{_OF_TORCH} {' '.join(DTYPES)}",
        "torch._utils": """
            _rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter
        """,
        "torch.storage": "UntypedStorage TypedStorage _TypedStorage",
        "torch.nn.parameter": "Parameter",
        "torch.nn.modules.container": "ParameterDict",
        "numpy": "dtype ndarray",
        "numpy.core.multiarray": "_reconstruct scalar",
        "numpy._core.multiarray": "_reconstruct scalar",
        "_codecs": "encode",
        "argparse": "Namespace",
        "pathlib": "PosixPath WindowsPath",
        "typing": "Any",
        "builtins": _BUILTINS,
        "__builtin__": _BUILTINS,
    }.items()
    for name in names.split()
)
HARMLESS_PACKAGES = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.")
