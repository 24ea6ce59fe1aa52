"""Pictures of one plain shape on a plain ground: drawn, put into words, and recognised again.

For the example model, which is trained on such pictures, and for every test that wants to know
whether a picture shows what its prompt asked for. `draw` and `recognise` are each other's
inverse; `recognise` looks at pixels and learns nothing, so it judges a model without sharing its
mistakes. Lengths are fractions of the picture's side, so a scene has no size of its own.

Rules: numpy and Pillow alone; nothing here is random but what the caller's generator decides.
"""

from runai.testing.shapes.captions import POSITION_WORDS, SIZE_WORDS, caption, plain_caption
from runai.testing.shapes.drawing import (
    COLOURS,
    POSITIONS,
    SHAPES,
    SIZES,
    Scene,
    combinations,
    draw,
    paint,
    random_scene,
)
from runai.testing.shapes.recognition import Sighting, nearest_colour, recognise

__all__ = [
    "COLOURS",
    "POSITIONS",
    "POSITION_WORDS",
    "SHAPES",
    "SIZES",
    "SIZE_WORDS",
    "Scene",
    "Sighting",
    "caption",
    "combinations",
    "draw",
    "nearest_colour",
    "paint",
    "plain_caption",
    "random_scene",
    "recognise",
]
