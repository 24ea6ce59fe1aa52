"""What the pickle of a model file may refer to.

Being here allows nothing to be called: see `pickle_machine`. It only says that the rest of the
file is still worth reading.
"""

from __future__ import annotations

from typing import NamedTuple

# storage class -> dtype, as both safetensors and torch's files are described here
STORAGES = {
    "HalfStorage": "F16",
    "FloatStorage": "F32",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
}
BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
_DTYPES = "float16 float32 float64 bfloat16 half float double int8 int16 int32 int64 uint8 bool"


class Name(NamedTuple):
    """Something of a Python module that the pickle refers to."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


# what torch, and trainers that keep notes beside the weights, put into their files
HARMLESS = frozenset(
    Name(module, name)
    for module, names in {
        "collections": "OrderedDict defaultdict",
        "torch._utils": "_rebuild_tensor _rebuild_tensor_v2 _rebuild_parameter",
        "torch": f"Size device {' '.join(STORAGES)} {_DTYPES}",
        "torch.storage": "UntypedStorage TypedStorage _TypedStorage",
        "torch.nn.parameter": "Parameter",
        "torch.nn.modules.container": "ParameterDict",
        "numpy": "dtype ndarray",
        "numpy.core.multiarray": "scalar _reconstruct",
        "numpy._core.multiarray": "scalar _reconstruct",
        "_codecs": "encode",
        "argparse": "Namespace",
        "builtins": "set frozenset int float bool complex list dict tuple bytearray",
        "__builtin__": "set frozenset int long float bool complex list dict tuple bytearray",
        "pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint",
        "pytorch_lightning.callbacks.early_stopping": "EarlyStopping",
    }.items()
    for name in names.split()
)
