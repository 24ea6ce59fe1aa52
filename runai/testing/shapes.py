"""Pictures of one plain shape on a plain ground: drawn, put into words, and recognised again.

For the example model, which is trained on such pictures, and for every test that wants to know
whether a picture shows what its prompt asked for. `draw` and `recognise` are each other's
inverse; `recognise` looks at pixels and learns nothing, so it judges a model without sharing its
mistakes. Lengths are fractions of the picture's side, so a scene has no size of its own.

Rules: numpy and Pillow alone; nothing here is random but what the caller's generator decides.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

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
_SMALL_BELOW, _LARGE_ABOVE = 0.205, 0.28
_MARGIN = 0.03  # free between a shape on one side and that edge of the picture
_CENTRED_WITHIN = 0.08  # this far from the middle still counts as the center
_LEAST_AREA = 0.01  # fewer foreground pixels than this part of the picture: no shape
_LEAST_CONTRAST = 40.0  # RGB distance under which foreground and ground are one colour
_GRID = 64  # masks are compared at this size
_SUPERSAMPLING = 4

Point = tuple[float, float]
Pixels = npt.NDArray[np.float32]


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


@dataclass(frozen=True)
class Sighting:
    """What `recognise` found; everything but the ground is None where no shape stands out.

    `area` is the shape's part of the picture, `likeness` how much of it agrees with the ideal
    outline (intersection over union, 0 to 1).
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


# ------------------------------------------------------------------------------------ making up


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


# -------------------------------------------------------------------------------------- drawing


def draw(scene: Scene, width: int = 128, height: int | None = None) -> Image.Image:
    """The scene as an RGB picture of `width` × `height` pixels (square by default)."""
    extent = (width, height if height is not None else width)
    return paint(
        scene.shape,
        COLOURS[scene.colour],
        COLOURS[scene.background],
        (scene.x, scene.y, scene.radius),
        extent,
    )


def paint(
    shape: str,
    colour: tuple[int, int, int],
    background: tuple[int, int, int] | Image.Image,
    place: tuple[float, float, float],
    extent: tuple[int, int],
) -> Image.Image:
    """A shape in any colour at `place` (x, y, radius) over a colour or another picture.

    The radius is a fraction of the shorter side. Edges are antialiased.
    """
    width, height = extent
    x, y, radius = place
    reach = radius * min(extent) * _SUPERSAMPLING
    centre = (x * width * _SUPERSAMPLING, y * height * _SUPERSAMPLING)
    mask = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING), 0)
    outline = [(centre[0] + reach * px, centre[1] + reach * py) for px, py in SHAPES[shape]]
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    if isinstance(background, Image.Image):
        picture = background.copy()
    else:
        picture = Image.new("RGB", extent, background)
    picture.paste(colour, (0, 0), mask.resize(extent, Image.Resampling.BOX))
    return picture


# ------------------------------------------------------------------------------------- captions

_OPENINGS = ("", "", "", "a picture of ", "a drawing of ", "an image of ", "a photo of ")
_POSITION_WORDS = {
    "left": ("on the left", "at the left", "to the left"),
    "right": ("on the right", "at the right", "to the right"),
    "top": ("at the top", "on top", "near the top"),
    "bottom": ("at the bottom", "on the bottom", "near the bottom"),
    "center": ("in the center", "in the middle", "in the centre"),
}
_SIZE_WORDS = {"small": ("small", "little", "tiny"), "medium": ("",), "large": ("large", "big")}
_GROUND_WORDS = ("on a {} background", "on a {} background", "on {}", "over a {} background")


def plain_caption(scene: Scene) -> str:
    """The caption everyone would write: "a red circle on a blue background"."""
    ground = _with_articles(f"on a {scene.background} background")
    return f"{_with_articles(f'a {scene.colour} {scene.shape}')} {ground}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A natural caption; what it leaves unsaid is random, so that short prompts work too.

    [opening] [a] [size] [colour] shape [where] [on a … background], every part but the shape
    sometimes dropped; now and then the shape itself becomes "shape".
    """
    size = _one_of(_SIZE_WORDS[scene.size], rng) if rng.random() < 0.6 else ""
    colour = scene.colour if rng.random() < 0.93 else ""
    noun = scene.shape if rng.random() < 0.96 else "shape"
    where = _one_of(_POSITION_WORDS[scene.position], rng) if rng.random() < 0.45 else ""
    ground = _one_of(_GROUND_WORDS, rng).format(scene.background) if rng.random() < 0.7 else ""
    article = "a" if rng.random() < 0.85 else ""
    opening = _one_of(_OPENINGS, rng) if article else ""
    thing = " ".join(word for word in (article, size, colour, noun, where) if word)
    comma = "," if where and ground and rng.random() < 0.5 else ""
    return (opening + _with_articles(f"{thing}{comma} {ground}")).strip()


def _one_of(words: tuple[str, ...], rng: np.random.Generator) -> str:
    return words[rng.integers(len(words))]


def _with_articles(text: str) -> str:
    """ "a" becomes "an" before "orange", the only word here that asks for it."""
    return text.replace("a orange", "an orange")


# ----------------------------------------------------------------------------------- recognising


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
    shape, likeness = _best_outline(mask, bounds)
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
        area=float(mask.mean()),
        likeness=likeness,
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
