"""Sizes in pixels, as pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

MULTIPLE = 8  # pixels per latent
SMALLEST = 64


@dataclass(frozen=True)
class Extent:
    """Width and height in pixels."""

    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def floor(self, multiple: int = MULTIPLE, smallest: int = SMALLEST) -> Extent:
        """The largest extent of whole multiples within this one, at least `smallest` a side."""
        sides = (max(side // multiple * multiple, smallest) for side in self.size)
        return Extent(*sides)


def chosen(width: int | None, height: int | None, fallback: Extent) -> Extent:
    """The sides that were asked for, each filled up from `fallback`."""
    return Extent(width or fallback.width, height or fallback.height)
