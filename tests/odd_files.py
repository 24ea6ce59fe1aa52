"""Small files that ask for endless work or memory, or bring about errors where they are read.

None runs code (`hostile` has those that would). Each says what looking at it comes to: nothing
that can be used, or a LoRA or embedding with an oddity that does no harm.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hostile

Write = Callable[[Path], None]
_LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
PROTO = b"\x80\x02"
_PRIME = 2**61 - 1  # whole numbers that differ by it have one hash
_DEEP = b"K\x01" + b"\x85" * 100_000  # a tuple in a tuple in …
_ENDLESS = b"K\x01" + b"2\x86" * 40  # 2 ** 40 numbers, if it is written out
BYTES = bytes(64)


# --- safetensors -------------------------------------------------------------------------


def row(shape: Any, start: Any, end: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def raw_safetensors(path: Path, header: bytes, data: bytes = BYTES) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def safetensors(header: Mapping[str, Any], data: bytes = BYTES) -> Write:
    return lambda path: raw_safetensors(path, json.dumps(header).encode(), data)


def lora(**metadata: Any) -> Write:
    """A LoRA of one tensor with any metadata."""
    return safetensors(
        {f"{_LAYER}.lora_down.weight": row([1, 16], 0, 64), "__metadata__": metadata}
    )


def _written(header: bytes) -> Write:
    return lambda path: raw_safetensors(path, header)


def _many(path: Path) -> None:
    one = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    rows = b",".join(b'"%d":%b' % (i, one) for i in range(100_000))
    raw_safetensors(path, b"{%b}" % rows, b"")


def _endless_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")


def _long_header(path: Path) -> None:
    raw_safetensors(path, b'{"__metadata__":{"a":"%b"}}' % (b"x" * 17 * 2**20))


_VAE = {
    "encoder.conv_in.weight": row([1], 0, 4),
    "decoder.conv_in.weight": row([-1, 4, 3, 3], 4, 8),
}
_UNET = "model.diffusion_model.input_blocks.0.0.weight"
SAFETENSORS: dict[str, tuple[Write, str | None]] = {
    "tags counted to infinity": (lora(ss_tag_frequency='{"a":{"b":1e999}}'), "lora"),
    "tags nested deeply": (lora(ss_tag_frequency="[" * 100_000), "lora"),
    "tags counted with many digits": (
        lora(ss_tag_frequency='{"a":{"b":"%s"}}' % ("9" * 5000)),
        "lora",
    ),
    "a title of many words": (lora(**{"modelspec.title": "a " * 7_000_000}), "lora"),
    "a phrase of many words": (lora(**{"modelspec.trigger_phrase": "," * 15_000_000}), "lora"),
    "a shape of many dimensions": (safetensors({"a": row([2] * 5_000_000, 0, 64)}), None),
    "metadata that is a list": (
        safetensors({"a": row([16], 0, 64), "__metadata__": ["a"]}),
        None,
    ),
    "metadata with a dict in it": (lora(lora_adapter_metadata={"a": 1}), None),
    "an offset of 4,300 digits": (
        _written(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,%b]}}' % (b"9" * 4300)),
        None,
    ),
    "a broken offset": (safetensors({"a": row([16], 0.0, 64.0)}), None),
    "one offset": (safetensors({"a": {**row([16], 0, 64), "data_offsets": [64]}}), None),
    "nested deeply": (_written(b'{"a":' + b"[" * 1_000_000 + b"}"), None),
    "a hundred thousand tensors": (_many, None),
    "a header of 17 MB": (_long_header, None),
    "a header of endless length": (_endless_header, None),
    "a negative shape": (safetensors(_VAE, bytes(8)), None),
    "a shape that is no list": (
        safetensors({_UNET: row({}, 0, 4), "x.attn2.to_k.weight": row("", 4, 8)}, bytes(8)),
        None,
    ),
    "an absurd shape of nothing": (safetensors({"a": row([0, 10**30], 0, 0)}, b""), None),
    "a shape larger than its bytes": (safetensors({"emb_params": row([10**9, 768], 0, 64)}), None),
    "tensors in the same bytes": (
        safetensors({f"<{i}>": row([16], 0, 64) for i in range(100)}),
        None,
    ),
    "a gap": (safetensors({"<a>": row([8], 32, 64)}), None),
    "bytes of nothing at the end": (safetensors({"<a>": row([8], 0, 32)}), None),
    "an unknown format of numbers": (safetensors({"a": row([16], 0, 64, "Q9")}), None),
}

# --- torch's files -----------------------------------------------------------------------


def text(value: str) -> bytes:
    written = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(written)) + written


def number(value: int) -> bytes:
    written = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(written)]) + written


def storage(key: bytes = text("0"), count: int = 16) -> bytes:
    kind = text("storage") + b"ctorch\nFloatStorage\n"
    return b"(" + kind + key + text("cpu") + number(count) + b"tQ"


def tensor(shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """A tensor of a storage of 16 numbers."""
    numbers = (b"(" + b"".join(map(number, values)) + b"t" for values in (shape, strides))
    place = b"K\x00" + b"".join(numbers) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + place + b"tR"


def torch_file(content: bytes) -> Write:
    return lambda path: hostile.archive(path, PROTO + content + b".", BYTES)


def embedding(
    shape: tuple[int, ...] = (1, 16),
    strides: tuple[int, ...] = (16, 1),
    name: bytes = text("name"),
    step: bytes = b"K\x01",
) -> Write:
    """The web UI's form."""
    vectors = b"}" + text("*") + tensor(shape, strides) + b"s"
    rest = text("name") + name + text("step") + step
    return torch_file(b"}(" + text("string_to_param") + vectors + rest + b"u")


def _colliding(path: Path) -> None:
    keys = b"".join(number(i * _PRIME) + b"N" for i in range(1, 200_000))
    torch_file(b"}(" + keys + b"u")(path)


def _copied_dict(path: Path) -> None:
    pairs = b"".join(text(f"k{i}") + b"K\x01\x86" for i in range(20_000))
    made = b"(" + pairs + b"l\x85q\x010ccollections\nOrderedDict\nq\x020"
    torch_file(made + b"(" + b"h\x02h\x01R" * 2000 + b"l")(path)


def _copied_shape(path: Path) -> None:
    made = b"(" + b"K\x01" * 200_000 + b"lq\x010ctorch._utils\n_rebuild_tensor_v2\nq\x020"
    made += storage() + b"q\x030(h\x03K\x00h\x01h\x01tq\x040"
    torch_file(made + b"(" + b"h\x02h\x04R" * 3000 + b"l")(path)


TORCH: dict[str, tuple[Write, str | None]] = {
    "an endless key of a storage": (torch_file(storage(_ENDLESS)), None),
    "a deep key of a storage": (torch_file(storage(_DEEP)), None),
    "keys of one hash": (_colliding, None),
    "a dict that is copied": (_copied_dict, None),
    "a shape that is copied": (_copied_shape, None),
    "a state that is its own object": (
        torch_file(b"cargparse\nNamespace\n)Rq\x01}" + text("_parameters") + b"h\x01sb"),
        None,
    ),
    "an endless name": (embedding(name=_ENDLESS), None),
    "an endless step": (embedding(step=_ENDLESS), None),
    "a deep name": (embedding(name=_DEEP), "embedding"),
    "a name that is half a character": (embedding(name=text("a\ud800b")), "embedding"),
    "a name of 3,000 bytes": (
        embedding(name=b"\x8b" + struct.pack("<i", 3000) + b"\x7f" * 3000),
        None,
    ),
    "vectors without bytes": (embedding((125_000_000, 16), (0, 1)), None),
    "more vectors than can be counted": (embedding((2**70, 16), (0, 1)), None),
    "a negative stride": (embedding((2, 16), (-16, 1)), None),
    "an extension": (torch_file(b"\x82\x01"), None),
}
FILES = {**SAFETENSORS, **TORCH}
