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

    def floor(self) -> Extent:
        """The largest extent within this one that latents can have, at least 64 a side."""
        return Extent(_floor(self.width), _floor(self.height))


def _floor(side: int) -> int:
    return max(side // MULTIPLE * MULTIPLE, SMALLEST)


def chosen(width: int | None, height: int | None, fallback: Extent) -> Extent:
    """The sides that were asked for, each filled up from `fallback`."""
    return Extent(width or fallback.width, height or fallback.height)
