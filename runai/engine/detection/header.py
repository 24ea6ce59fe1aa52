"""The header of a safetensors file.

It starts with its length (8 bytes, little endian), then JSON: tensor name to dtype, shape and
offsets, and `__metadata__` (https://github.com/huggingface/safetensors, "Format").

Rules, which are the format's own: the tensors lie one behind the other, without gaps and
overlaps, as large as their shapes say, and fill the file. What is far larger than a model's
header is refused before it is read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from itertools import chain
from operator import itemgetter, mul
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from runai.errors import ModelBroken

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 50_000  # SDXL has 2,600
MAX_DIMENSIONS = 8
MAX_NUMBER = 2**48  # of a shape or an offset
# bytes an element, by dtype (safetensors/src/tensor.rs, enum Dtype)
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
Shapes = dict[str, list[int]]
Table = dict[str, Any]


def is_safetensors(start: bytes) -> bool:
    """Whether a file that starts with these bytes, nine at least, is one of safetensors'."""
    return start[8:9] == b"{"


def read_header(path: Path) -> tuple[Shapes, dict[str, str]]:
    """The shapes by tensor name, and the metadata, of a safetensors file.

    Raises ModelBroken for anything that is not one, or is cut short.
    """
    with path.open("rb") as file:
        return header_of(file, path.stat().st_size, path.name)


def header_of(file: BinaryIO, size: int, name: str) -> tuple[Shapes, dict[str, str]]:
    """`read_header` of an open file of `size` bytes."""
    rows, said, _ = table_of(file, size, name)
    return dict(zip(rows, map(itemgetter("shape"), rows.values()), strict=True)), said


def table_of(file: BinaryIO, size: int, name: str) -> tuple[Table, dict[str, str], int]:
    """The rows by tensor name, the metadata, and where the tensors' bytes begin.

    Of each row `dtype`, `shape` and `data_offsets` are sound, and the bytes are there.
    """
    raw = _raw(file, size, name)
    try:
        rows: Table = from_json(raw, cache_strings="keys")
        metadata: dict[str, str] = rows.pop("__metadata__", None) or {}
        texts = set(map(type, metadata.values())) <= {str}
        end = _end(list(rows.values())) if texts else -1
    except (ValueError, LookupError, TypeError, AttributeError):
        end = -1
    if end < 0:
        raise ModelBroken(f"{name} has a damaged safetensors header.")
    whole = 8 + len(raw) + end
    if whole > size:
        raise ModelBroken(f"{name} is cut short: {size} of {whole} bytes are there.")
    if whole < size:
        raise ModelBroken(f"{name} is longer than its header says: {size} instead of {whole}.")
    return rows, metadata, 8 + len(raw)


def _raw(file: BinaryIO, size: int, name: str) -> bytes:
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= size - 8:
        raise ModelBroken(f"{name} is not a safetensors file, or is cut short.")
    if length > MAX_HEADER_BYTES:
        raise ModelBroken(f"{name} has a header of more than {MAX_HEADER_BYTES >> 20} MB.")
    raw = file.read(length)
    if raw.count(b"[") + raw.count(b"{") > 3 * MAX_TENSORS:  # as many as a tensor's row has
        raise ModelBroken(f"{name} has a header of more than {MAX_TENSORS} tensors.")
    return raw


def _end(rows: list[Any]) -> int:
    """Where the last tensor ends; -1 if anything is unsound.

    A big file has thousands of rows: no step of Python's own for each.
    """
    shapes = list(map(itemgetter("shape"), rows))
    offsets = list(map(itemgetter("data_offsets"), rows))
    if not (_sound(shapes) and _sound(offsets) and set(map(len, offsets)) <= {2}):
        return -1
    lengths = [end - start for start, end in offsets]
    item_bytes = map(ITEM_BYTES.__getitem__, map(itemgetter("dtype"), rows))
    if lengths != list(map(mul, map(math.prod, shapes), item_bytes)):
        return -1
    offsets.sort()
    borders = [0, *map(itemgetter(1), offsets)]
    return borders[-1] if borders[:-1] == list(map(itemgetter(0), offsets)) else -1


def _sound(lists: list[Any]) -> bool:
    """Whether these are lists of whole numbers of which none is absurd."""
    if not set(map(type, lists)) <= {list} or max(map(len, lists), default=0) > MAX_DIMENSIONS:
        return False
    numbers: Iterable[Any] = list(chain.from_iterable(lists))
    types = set(map(type, numbers))
    return types <= {int} and 0 <= min(numbers, default=0) <= max(numbers, default=0) < MAX_NUMBER
