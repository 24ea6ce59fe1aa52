"""What text encoders said before: bounded in bytes, least recently used goes first.

Entries belong to a network and go when it does (nothing here keeps it alive). What is kept is
as the network said it, before any weights: so the same text with other weights, in another
dialect, from another client, with another seed, size or number of steps, is the same entry.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch


@dataclass(frozen=True)
class Said:
    """What an encoder says of one chunk: 1 × tokens × width, and 1 × width or None."""

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    @property
    def bytes(self) -> int:
        return sum(
            t.numel() * t.element_size() for t in (self.states, self.pooled) if t is not None
        )


@dataclass
class _Kept:
    said: Said
    used: int


class TextCache:
    """Not for several threads at once. An entry larger than `max_bytes` is not kept."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._clock = count()
        self._kept: WeakKeyDictionary[Any, OrderedDict[Hashable, _Kept]] = WeakKeyDictionary()

    @property
    def bytes(self) -> int:
        """What is kept now."""
        return sum(kept.said.bytes for shelf in self._kept.values() for kept in shelf.values())

    def get(self, network: Any, key: Hashable, ask: Callable[[], Said]) -> Said:
        """What the network said of `key`; `ask` is called if it is not known."""
        shelf = self._kept.setdefault(network, OrderedDict())
        kept = shelf.get(key)
        if kept is not None:
            self.hits += 1
            kept.used = next(self._clock)
            shelf.move_to_end(key)
            return kept.said
        self.misses += 1
        said = ask()
        shelf[key] = _Kept(said, next(self._clock))
        self._shrink()
        return said

    def clear(self) -> None:
        self._kept.clear()

    def _shrink(self) -> None:
        while self.bytes > self.max_bytes:
            shelves = [shelf for shelf in self._kept.values() if shelf]
            oldest = min(shelves, key=lambda shelf: next(iter(shelf.values())).used)
            oldest.popitem(last=False)
