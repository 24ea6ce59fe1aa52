"""The models in memory: loaded on first use, the old ones kept while there is room.

Rules: a model in use is never let go; before a new one is loaded, the models that were
longest unused go until it should fit beside what is left. Room is asked of the machine, not
guessed: what is free now against the file's size in the target dtype.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from runai.engine.catalogue import Entry
from runai.engine.devices import Place
from runai.engine.loading import LoadedModel

HEADROOM_BYTES = 2**30  # for activations while drawing
LOADING_FACTOR = 1.2  # weights are held twice in part while they are converted


class ModelCache:
    """Loaded models by name, least recently used first."""

    def __init__(
        self,
        load: Callable[[Entry], LoadedModel],
        place: Place,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        self._load = load
        self._place = place
        self._free_bytes = free_bytes or place.free_bytes
        self._models: dict[str, LoadedModel] = {}

    def names(self) -> list[str]:
        return list(self._models)

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def get(self, entry: Entry, in_use: Collection[str]) -> LoadedModel:
        """The model of an entry, loaded now if need be; those `in_use` stay."""
        model = self._models.pop(entry.name, None)
        if model is None or model.entry != entry:
            del model  # a file that was replaced: its old weights must not be held meanwhile
            self._make_room(_weight_bytes(entry.path, self._place), in_use)
            model = self._load(entry)
        self._models[entry.name] = model
        return model

    def clear(self) -> None:
        self._models.clear()
        _release()

    def _make_room(self, needed: int, in_use: Collection[str]) -> None:
        wanted = int(needed * LOADING_FACTOR) + HEADROOM_BYTES
        for name in [name for name in self._models if name not in in_use]:
            if self._free_bytes() >= wanted:
                return
            del self._models[name]
            _release()


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _weight_bytes(path: Path, place: Place) -> int:
    """The size of a model's weights in memory, from its files: an upper estimate in bytes."""
    files = [path] if path.is_file() else [p for p in path.glob("*/*") if p.is_file()]
    stored = sum(f.stat().st_size for f in files if f.suffix in _WEIGHTS)
    # files are fp16 or fp32; taken for fp16, the common form, when weights get wider
    return stored * (2 if place.dtype == torch.float32 else 1)


_WEIGHTS = {".safetensors", ".safetensor", ".ckpt", ".bin"}
