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
from runai.engine.model import LoadedModel

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
    if path.is_file():
        stored = path.stat().st_size
    else:
        stored = sum(_largest_weights(path / part) for part in ("unet", "vae", "text_encoder"))
    # files are fp16 or fp32; taken for fp16, the common form, when weights get wider
    return stored * (2 if place.dtype == torch.float32 else 1)


def _largest_weights(folder: Path) -> int:
    """The size of one set of weights: a folder may hold the same ones in several formats."""
    sets: dict[str, int] = {}
    for file in folder.glob("*"):
        if file.suffix in (".safetensors", ".bin"):
            kind = f"{file.suffix} {'.fp16.' in file.name} {'non_ema' in file.name}"
            sets[kind] = sets.get(kind, 0) + file.stat().st_size
    return max(sets.values(), default=0)
