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
Shapes = dict[str, list[int]]


def read_header(path: Path) -> tuple[Shapes, dict[str, str]]:
    """The shapes by tensor name, and the metadata, of a safetensors file.

    Raises ModelBroken for anything that is not one, or is cut short.
    """
    with path.open("rb") as file:
        return header_of(file, path.stat().st_size, path.name)


def header_of(file: BinaryIO, size: int, name: str) -> tuple[Shapes, dict[str, str]]:
    """`read_header` of an open file of `size` bytes."""
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
        raise ModelBroken(f"{name} is not a safetensors file, or is cut short.")
    try:
        header: dict[str, Any] = from_json(file.read(length), cache_strings="keys")
        metadata = header.pop("__metadata__", None) or {}
        rows = header.values()
        # a big file has thousands of rows: no step of Python's own for each
        shapes: Shapes = dict(zip(header, map(itemgetter("shape"), rows), strict=True))
        end = max(map(itemgetter(1), map(itemgetter("data_offsets"), rows)), default=0)
        sound = set(map(type, chain.from_iterable(shapes.values()))) <= {int}
        whole = 8 + length + end
        said = {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise ModelBroken(f"{name} has a damaged safetensors header.")
    if whole > size:
        raise ModelBroken(f"{name} is cut short: {size} of {whole} bytes are there.")
    return shapes, said
