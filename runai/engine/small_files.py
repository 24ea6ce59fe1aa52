"""LoRA and embedding files: what is in them, and their tensors in fp32 on the processor.

A file cannot ask for more memory than its own size justifies. Not here: checkpoints, which
are read tensor by tensor to where they will live (`loading`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from runai.engine import pickles
from runai.engine.devices import Place
from runai.engine.loading.weights import Reader, Rows, Stored, read_index

_HERE = Place(torch.device("cpu"), torch.float32)


def index(path: Path) -> tuple[Rows, dict[str, str]]:
    """Where a file's tensors are, by name, and its metadata.

    In a .pt or .bin, names of dicts within dicts are joined by dots. Raises ModelBroken for
    what is damaged, ModelUnsafe for a pickle that could run code.
    """
    return read_index(path, pickles.nested)


def read(rows: Mapping[str, Stored]) -> dict[str, torch.Tensor]:
    """The tensors. Raises ModelBroken for a file that was cut short."""
    with Reader(_HERE) as reader:
        return {name: reader.read(row) for name, row in rows.items()}
