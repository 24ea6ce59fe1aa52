"""LoRA and embedding files read whole: every tensor in fp32, wherever the file holds it.

A file cannot ask for more memory than its own size justifies. Not here: checkpoints, which
are read tensor by tensor to where they will live (`loading`).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from runai.engine import pickles
from runai.engine.detection.header import SAFETENSORS
from runai.engine.devices import Place
from runai.engine.loading.weights import Reader, Rows, read_index, rows_of
from runai.errors import ModelBroken

MOST_SHARING = 4  # times that a byte may be in a tensor
_HERE = Place(torch.device("cpu"), torch.float32)


def read_whole(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors by name, fp32 on the processor, and the file's metadata.

    In a .pt or .bin, names of dicts within dicts are joined by dots. Raises ModelBroken for
    what is damaged, ModelUnsafe for a pickle that could run code.
    """
    if path.suffix.lower() in SAFETENSORS:
        rows, metadata = read_index(path)
    else:
        rows, metadata = rows_of(path, pickles.nested(pickles.read(path))), {}
    _check_size(path, rows)
    with Reader(_HERE) as reader:
        return {name: reader.read(row) for name, row in rows.items()}, metadata


def _check_size(path: Path, rows: Rows) -> None:
    """Raise ModelBroken for tensors that are views of so little that they are no weights."""
    sizes = (row.dtype.itemsize * math.prod(max(1, side) for side in row.shape)
             for row in rows.values())  # fmt: skip
    if sum(sizes) > MOST_SHARING * path.stat().st_size:
        raise ModelBroken(f"{path.name} claims tensors that are larger than the file.")
