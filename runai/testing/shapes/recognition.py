"""What a picture shows, found by looking at its pixels.

The ground is the colour along the border, the ink what differs from it most; between the two lies
the shape's mask, which is compared with every ideal outline stretched over the same bounds. A
shape of which only the outline is drawn is filled first, and how much was missing is told.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from runai.testing.shapes.drawing import COLOURS, SHAPES, paint

_SMALL_BELOW, _LARGE_ABOVE = 0.205, 0.28
_CENTRED_WITHIN = 0.08  # this far from the middle still counts as the center
_LEAST_AREA = 0.01  # fewer foreground pixels than this part of the picture: no shape
_LEAST_CONTRAST = 40.0  # RGB distance under which foreground and ground are one colour
_OUTLINED_BELOW = 0.9
_GRID = 64  # masks are compared at this size

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sighting:
    """What `recognise` found; everything but the ground is None where no shape stands out.

    `area` is the shape's part of the picture, `likeness` how much of it agrees with the ideal
    outline (intersection over union, 0 to 1), `filled` the part of it that has its colour: 1 for
    a plain shape, less for one of which only the outline is drawn.
    """

    background: str
    shape: str | None = None
    colour: str | None = None
    position: str | None = None
    size: str | None = None
    x: float = 0.5
    y: float = 0.5
    radius: float = 0.0
    area: float = 0.0
    likeness: float = 0.0
    filled: float = 1.0

    @property
    def outlined(self) -> bool:
        """Whether a shape is there and the ground shows through its middle."""
        return self.shape is not None and self.filled < _OUTLINED_BELOW


def recognise(image: Image.Image) -> Sighting:
    """What the picture shows. Mild blur and noise are fine; a second shape is not expected."""
    pixels = _cleaned(image)
    ground = np.median(_border(pixels), axis=0)
    background = nearest_colour(ground)
    ink = _ink(pixels, ground)
    if ink is None:
        return Sighting(background)
    mask = _towards(pixels, ground, ink)
    bounds = _bounds(mask)
    if mask.mean() < _LEAST_AREA or bounds is None:
        return Sighting(background)
    solid = _solid(mask)
    shape, likeness = _best_outline(solid, bounds)
    left, top, right, bottom = bounds
    height, width = mask.shape
    x, y = (left + right) / 2 / width, (top + bottom) / 2 / height
    radius = max(right - left, bottom - top) / 2 / min(width, height)
    return Sighting(
        background=background,
        shape=shape,
        colour=nearest_colour(ink),
        position=_position(x, y),
        size=_size(radius),
        x=x,
        y=y,
        radius=radius,
        area=float(solid.mean()),
        likeness=likeness,
        filled=float(mask.sum() / solid.sum()),
    )


def nearest_colour(rgb: npt.NDArray[np.floating] | tuple[float, float, float]) -> str:
    """The palette's name for an RGB colour (0 to 255)."""
    distances = {
        name: float(np.square(np.asarray(rgb, np.float32) - np.asarray(value)).sum())
        for name, value in COLOURS.items()
    }
    return min(distances, key=distances.__getitem__)


def _cleaned(image: Image.Image) -> Pixels:
    """At most 256 pixels a side, single-pixel noise removed; (height, width, 3), 0 to 255."""
    small = image.convert("RGB")
    small.thumbnail((256, 256), Image.Resampling.BOX)
    return np.asarray(small.filter(ImageFilter.MedianFilter(3)), np.float32)


def _border(pixels: Pixels) -> Pixels:
    """The outermost pixels, (n, 3): no shape reaches them, so they are the ground."""
    edges = (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:])
    return np.concatenate([edge.reshape(-1, 3) for edge in edges])


def _ink(pixels: Pixels, ground: Pixels) -> Pixels | None:
    """The shape's colour: the median of what differs clearly from the ground, if anything does."""
    distance = np.linalg.norm(pixels - ground, axis=2)
    most = float(np.quantile(distance, 1 - _LEAST_AREA))
    if most < _LEAST_CONTRAST:
        return None
    inked: Pixels = np.median(pixels[distance > 0.7 * most], axis=0)
    return inked


def _towards(pixels: Pixels, ground: Pixels, ink: Pixels) -> npt.NDArray[np.bool_]:
    """Where a pixel is nearer to the ink than to the ground, along the line between the two."""
    line = ink - ground
    nearer: npt.NDArray[np.bool_] = (pixels - ground) @ line > 0.5 * float(line @ line)
    return nearer


def _solid(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask and what it surrounds: whatever has some of it to all four sides."""
    surrounded = np.ones_like(mask)
    for axis in (0, 1):
        surrounded &= np.maximum.accumulate(mask, axis)
        surrounded &= np.flip(np.maximum.accumulate(np.flip(mask, axis), axis), axis)
    return surrounded


def _bounds(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the mask; lone pixels do not count."""
    columns = np.flatnonzero(mask.sum(axis=0) >= 2)
    rows = np.flatnonzero(mask.sum(axis=1) >= 2)
    if len(columns) < 4 or len(rows) < 4:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _best_outline(
    mask: npt.NDArray[np.bool_], bounds: tuple[int, int, int, int]
) -> tuple[str, float]:
    """The shape whose outline, stretched over the bounds, agrees best, and how well."""
    seen = Image.fromarray(mask.astype(np.uint8) * 255).resize(
        (_GRID, _GRID), Image.Resampling.BOX, box=bounds
    )
    inside = np.asarray(seen, np.float32) / 255
    likeness = {
        shape: float(np.minimum(inside, ideal).sum() / np.maximum(inside, ideal).sum())
        for shape, ideal in _ideals().items()
    }
    best = max(likeness, key=likeness.__getitem__)
    return best, likeness[best]


@functools.cache
def _ideals() -> dict[str, Pixels]:
    """Every shape filling a grid, 0 outside to 1 inside."""
    place = (0.5, 0.5, 0.5)
    return {
        shape: np.float32(1 / 255)
        * np.asarray(
            paint(shape, (255, 255, 255), (0, 0, 0), place, (_GRID, _GRID)).convert("L"),
            np.float32,
        )
        for shape in SHAPES
    }


def _position(x: float, y: float) -> str:
    across, down = x - 0.5, y - 0.5
    if max(abs(across), abs(down)) < _CENTRED_WITHIN:
        return "center"
    if abs(across) > abs(down):
        return "left" if across < 0 else "right"
    return "top" if down < 0 else "bottom"


def _size(radius: float) -> str:
    if radius < _SMALL_BELOW:
        return "small"
    return "large" if radius > _LARGE_ABOVE else "medium"
