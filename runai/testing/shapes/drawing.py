"""What a scene is, which there are, and how one becomes a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "green": (35, 155, 55),
    "blue": (35, 65, 215),
    "yellow": (250, 225, 40),
    "orange": (250, 130, 20),
    "purple": (125, 40, 165),
    "pink": (250, 145, 195),
    "cyan": (60, 210, 225),
    "white": (248, 248, 248),
    "black": (16, 16, 16),
}
POSITIONS = ("left", "right", "top", "bottom", "center")
SIZES: dict[str, tuple[float, float]] = {  # least and most radius, half a shape's extent
    "small": (0.15, 0.19),
    "medium": (0.22, 0.26),
    "large": (0.30, 0.34),
}
_MARGIN = 0.03  # free between a shape on one side and that edge of the picture
_SUPERSAMPLING = 4

Point = tuple[float, float]


def _regular(points: int, inner: float | None = None) -> list[Point]:
    """A polygon or (with an inner radius) a star of that many tips, first tip up."""
    radii = [1.0] if inner is None else [1.0, inner]
    count = points * len(radii)
    turns = [2 * math.pi * i / count for i in range(count)]
    return [
        (radii[i % len(radii)] * math.sin(turn), -radii[i % len(radii)] * math.cos(turn))
        for i, turn in enumerate(turns)
    ]


def _filling(points: list[Point]) -> list[Point]:
    """The same outline, stretched to fill -1…1 both ways."""
    lows = [min(p[axis] for p in points) for axis in (0, 1)]
    spans = [max(p[axis] for p in points) - lows[axis] for axis in (0, 1)]
    return [(2 * (x - lows[0]) / spans[0] - 1, 2 * (y - lows[1]) / spans[1] - 1) for x, y in points]


_ARM = 0.36  # half the width of a cross's arms
SHAPES: dict[str, list[Point]] = {
    "circle": _regular(72),
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(0, -1), (1, 1), (-1, 1)],
    "star": _filling(_regular(5, inner=0.42)),
    "cross": [
        *((-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)),
        *((_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)),
    ],
    "diamond": _regular(4),
}


@dataclass(frozen=True)
class Scene:
    """One shape on a ground. `x` and `y` are its centre, `radius` half its extent."""

    shape: str
    colour: str
    background: str
    position: str
    size: str
    x: float
    y: float
    radius: float


def combinations() -> list[tuple[str, str, str]]:
    """Every (shape, colour, background) there can be; the two colours always differ."""
    return [
        (shape, colour, background)
        for shape in SHAPES
        for colour in COLOURS
        for background in COLOURS
        if colour != background
    ]


def random_scene(
    rng: np.random.Generator, among: list[tuple[str, str, str]] | None = None
) -> Scene:
    """A scene of one of these (shape, colour, background), with random place and size."""
    choices = among if among is not None else combinations()
    shape, colour, background = choices[rng.integers(len(choices))]
    position = POSITIONS[rng.integers(len(POSITIONS))]
    size = list(SIZES)[rng.integers(len(SIZES))]
    radius = float(rng.uniform(*SIZES[size]))
    x, y = _place(position, radius, rng)
    return Scene(shape, colour, background, position, size, x, y, radius)


def _place(position: str, radius: float, rng: np.random.Generator) -> Point:
    """A centre for that position: nearly against its edge, and nearly in the middle across."""
    near = radius + _MARGIN + float(rng.uniform(0, 0.02))
    across = 0.5 + float(rng.uniform(-0.02, 0.02))
    places = {
        "left": (near, across),
        "right": (1 - near, across),
        "top": (across, near),
        "bottom": (across, 1 - near),
        "center": (across, 0.5 + float(rng.uniform(-0.02, 0.02))),
    }
    return places[position]


def draw(
    scene: Scene, width: int = 128, height: int | None = None, *, stroke: float | None = None
) -> Image.Image:
    """The scene as an RGB picture of `width` × `height` pixels (square by default).

    `stroke`: draw the shape's outline only, so wide.
    """
    extent = (width, height if height is not None else width)
    return paint(
        scene.shape,
        COLOURS[scene.colour],
        COLOURS[scene.background],
        (scene.x, scene.y, scene.radius),
        extent,
        stroke=stroke,
    )


def paint(
    shape: str,
    colour: tuple[int, int, int],
    background: tuple[int, int, int] | Image.Image,
    place: tuple[float, float, float],
    extent: tuple[int, int],
    *,
    stroke: float | None = None,
) -> Image.Image:
    """A shape in any colour at `place` (x, y, radius) over a colour or another picture.

    The radius is a fraction of the shorter side, and so is `stroke`, the width of the outline
    where nothing but that is to be drawn. Edges are antialiased.
    """
    width, height = extent
    x, y, radius = place
    reach = radius * min(extent) * _SUPERSAMPLING
    centre = (x * width * _SUPERSAMPLING, y * height * _SUPERSAMPLING)
    mask = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING), 0)
    outline = [(centre[0] + reach * px, centre[1] + reach * py) for px, py in SHAPES[shape]]
    pen = ImageDraw.Draw(mask)
    if stroke is None:
        pen.polygon(outline, fill=255)
    else:
        thickness = round(stroke * min(extent) * _SUPERSAMPLING)
        # once round and on to the second point, so that the first corner is joined as well
        pen.line([*outline, *outline[:2]], fill=255, width=thickness, joint="curve")
    if isinstance(background, Image.Image):
        picture = background.copy()
    else:
        picture = Image.new("RGB", extent, background)
    picture.paste(colour, (0, 0), mask.resize(extent, Image.Resampling.BOX))
    return picture
