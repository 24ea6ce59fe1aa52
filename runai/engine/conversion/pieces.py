"""A tensor to be written, as where its bytes lie in the source; and a model made of such.

A `Model` is what both forms have in common: for each network its configuration and its
tensors under diffusers' names, in the source's own number formats. Reading a form ends in
one, writing a form starts from one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from runai.engine.archs import Arch
from runai.engine.detection import Finding
from runai.engine.devices import Place
from runai.engine.loading import networks
from runai.engine.loading.names import Layout
from runai.engine.loading.weights import Reader, Rows, Stored

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Piece:
    """`parts` joined along the first side, then turned if `transposed`, then of `shape`."""

    parts: tuple[Stored, ...]
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype


Pieces = Mapping[str, Piece]


@dataclass(frozen=True)
class Part:
    """One network: configuration, tensors by diffusers' names, and the names they had."""

    config: Mapping[str, Any]
    pieces: Pieces
    sources: frozenset[str]


@dataclass(frozen=True)
class Model:
    """`parts` by the names of a diffusers folder's subfolders. `finding`: how it is drawn with."""

    arch: Arch
    parts: Mapping[str, Part]
    finding: Finding
    metadata: Mapping[str, str]


def text_names(arch: Arch) -> list[str]:
    """The subfolders of an arch's text encoders, in its order; a refiner has the second only."""
    first = 2 if arch.added == "aesthetic" else 1
    numbers = range(first, first + len(arch.texts))
    return ["text_encoder" if number == 1 else f"text_encoder_{number}" for number in numbers]


def part_of(network: Any, config: Mapping[str, Any], rows: Rows, layouts: Sequence[Layout]) -> Part:
    """The tensors of an empty network, found in a file. ModelBroken if one is missing."""
    wanted = network.state_dict()
    found = networks.locate(wanted, rows, layouts, networks.called_in_errors(network))
    pieces = {
        name: Piece(
            (networks.part_of(stored, source, wanted[name], name),),
            tuple(wanted[name].shape),
            source.transposed,
        )
        for name, (stored, source) in found.items()
    }
    return Part(config, pieces, frozenset(source.name for _, source in found.values()))


def size_of(piece: Piece) -> int:
    return math.prod(piece.shape) * piece.dtype.itemsize


class Bytes:
    """Reads pieces as tensors in the number format that they are stored in."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        dtypes = {piece.dtype for piece in pieces}
        self._readers = {dtype: Reader(Place(CPU, dtype)) for dtype in dtypes}

    def __enter__(self) -> Bytes:
        return self

    def __exit__(self, *reason: object) -> None:
        for reader in self._readers.values():
            reader.__exit__(None, None, None)

    def tensor(self, piece: Piece) -> torch.Tensor:
        reader = self._readers[piece.dtype]
        parts = [reader.read(stored) for stored in piece.parts]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (whole.T.contiguous() if piece.transposed else whole).reshape(piece.shape)
