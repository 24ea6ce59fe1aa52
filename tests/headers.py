"""Files with the header of a real model and no weights: sparse, so that they are quick to make."""

from __future__ import annotations

import gzip
import json
import math
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "engine" / "headers"
BYTES = {"F32": 4, "I64": 8, "F16": 2}
Rows = dict[str, list[Any]]


@cache
def _read(name: str) -> str:
    return gzip.decompress((HERE / f"{name}.json.gz").read_bytes()).decode()


def rows(name: str) -> Rows:
    """{tensor: [dtype, shape]} of an arch, or of something that lies beside models."""
    found: Rows = json.loads(_read(name))
    return found


def names() -> list[str]:
    return sorted(path.name.removesuffix(".json.gz") for path in HERE.glob("*.json.gz"))


def write(path: Path, content: Rows, metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file of those tensors, all zero, that takes no room on the disk."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in content.items():
        start, end = end, end + BYTES[dtype] * math.prod(shape)
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(table, separators=(",", ":")).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + end)
    return path
