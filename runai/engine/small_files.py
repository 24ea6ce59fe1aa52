"""LoRA and embedding files read whole: every tensor in fp32, wherever the file holds it.

Not here: checkpoints, which are read tensor by tensor to where they will live (`loading`).
"""

from __future__ import annotations

from pathlib import Path

import torch

from runai.engine import pickles
from runai.engine.devices import Place
from runai.engine.loading.weights import SAFETENSORS, Reader, read_index, rows_of

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
    with Reader(_HERE) as reader:
        return {name: reader.read(row) for name, row in rows.items()}, metadata
