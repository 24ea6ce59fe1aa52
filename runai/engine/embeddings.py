"""Textual inversions: words of the user's own, each with vectors the text encoder reads.

A word is its file's name without the ending, in any capitals, as in the web UI. A file holds
one tensor, vectors × width, under whatever name its trainer chose (`emb_params`, `*`, the
token), or one for each of SDXL's text encoders (`clip_l`, `clip_g`). Whether a file fits a
model is seen from the width; where it does not, the word is read as the text it is, and a
note says so.

Rules: files are read when first named, and again when they change; none that is larger than
any word can be is read, and past `MAX_BYTES` the longest unused are forgotten. One thread. Not
here: finding the words in a prompt, and what the text encoder does with vectors (`prompts`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from runai.engine.catalogue import Catalogue, Entry
from runai.engine.detection.adapters import MAX_NUMBERS
from runai.engine.model import LoadedModel
from runai.engine.small_files import index, read
from runai.errors import ModelBroken, ModelError

MAX_BYTES = 32 * 2**20  # of all that is kept
# SDXL's two text encoders by their place in the model
_OF_TWO = ("clip_l", "clip_g")


@dataclass(frozen=True)
class _Read:
    stamp: tuple[int, int]
    tensors: dict[str, torch.Tensor]
    fault: str = ""

    @property
    def byte_size(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


class Embeddings:
    """The textual inversions of a catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._read: dict[Path, _Read] = {}

    def names(self) -> frozenset[str]:
        """The words there are now, in small letters."""
        return frozenset(self._entries())

    def vectors(self, model: LoadedModel, word: str) -> tuple[torch.Tensor, ...] | None:
        """For each of the model's text encoders, vectors × width, in its dtype on its device.

        None: there is no such word, or none for this model; `note` says which.
        """
        entry = self._entries().get(word.lower())
        if entry is None:
            return None
        widths = [text.network.config.hidden_size for text in model.texts]
        found = _fitting(self._content(entry).tensors, widths)
        return found and tuple(v.to(model.device, model.dtype) for v in found)

    def note(self, model: LoadedModel, word: str) -> str | None:
        """Why a word of `names` means nothing to this model; None if it does."""
        entry = self._entries().get(word.lower())
        if entry is None or self.vectors(model, word) is not None:
            return None
        why = self._content(entry).fault or f"it was not made for {model.arch.name}"
        return f"The embedding {entry.name} was not used: {why}."

    def _entries(self) -> dict[str, Entry]:
        entries = self._catalogue.entries(kind="embedding")
        # of the same word in two places the first counts, as for models
        return {Path(entry.name).name.lower(): entry for entry in reversed(entries)}

    def _content(self, entry: Entry) -> _Read:
        kept = self._read.pop(entry.path, None)
        if kept is None or kept.stamp != entry.stamp:
            kept = _read(entry)
        self._read[entry.path] = kept
        while self.byte_size > MAX_BYTES:
            del self._read[next(iter(self._read))]
        return kept

    @property
    def byte_size(self) -> int:
        """Of all that is kept, in main memory."""
        return sum(kept.byte_size for kept in self._read.values())


def _read(entry: Entry) -> _Read:
    try:
        return _Read(entry.stamp, _vectors_in(entry.path))
    except ModelError as error:
        return _Read(entry.stamp, {}, error.message.rstrip("."))
    except OSError as error:
        return _Read(entry.stamp, {}, f"it cannot be read ({error.strerror})")


def _vectors_in(path: Path) -> dict[str, torch.Tensor]:
    """The tensors that can be vectors, each vectors × width, finite. Raises a ModelError."""
    rows = {name: row for name, row in index(path)[0].items()
            if len(row.shape) in (1, 2) and math.prod(row.shape) > 1}  # fmt: skip
    if sum(math.prod(row.shape) for row in rows.values()) > MAX_NUMBERS:
        raise ModelBroken(f"{path.name} is larger than any embedding.")
    wide = {name: tensor.reshape(-1, tensor.shape[-1]) for name, tensor in read(rows).items()}
    if not all(tensor.isfinite().all() for tensor in wide.values()):
        raise ModelBroken(f"{path.name} holds numbers that are not finite.")
    return wide


def _fitting(
    tensors: dict[str, torch.Tensor], widths: list[int]
) -> tuple[torch.Tensor, ...] | None:
    """Of a file's tensors the one for each text encoder, if there is one for each."""
    if len(widths) == len(_OF_TWO):
        found = [tensors[name] for name in _OF_TWO if name in tensors]
    else:
        found = [tensor for tensor in tensors.values() if tensor.shape[1] == widths[0]][:1]
    return tuple(found) if [tensor.shape[1] for tensor in found] == widths else None
