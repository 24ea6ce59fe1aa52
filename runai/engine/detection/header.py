"""The header of a safetensors file.

It starts with its length (8 bytes, little endian), then JSON: tensor name to dtype, shape and
offsets, and `__metadata__` (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import struct
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from runai.errors import ModelBroken

MAX_HEADER_BYTES = 100 * 2**20
SAFETENSORS = (".safetensors", ".safetensor")
Shapes = dict[str, list[int]]
Table = dict[str, Any]


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

    Of each row `shape` and `data_offsets` are whole numbers, and the file is long enough.
    """
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
        raise ModelBroken(f"{name} is not a safetensors file, or is cut short.")
    try:
        rows: Table = from_json(file.read(length), cache_strings="keys")
        metadata = rows.pop("__metadata__", None) or {}
        # a big file has thousands of rows: no step of Python's own for each
        shapes = map(itemgetter("shape"), rows.values())
        offsets = list(map(itemgetter("data_offsets"), rows.values()))
        sound = set(map(type, chain(chain.from_iterable(shapes), chain(*offsets)))) <= {int}
        whole = 8 + length + max(map(itemgetter(1), offsets), default=0)
        said = {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise ModelBroken(f"{name} has a damaged safetensors header.")
    if whole > size:
        raise ModelBroken(f"{name} is cut short: {size} of {whole} bytes are there.")
    return rows, said, 8 + length
