"""Scenes in words, as people would write a prompt."""

from __future__ import annotations

import numpy as np

from runai.testing.shapes.drawing import Scene

_OPENINGS = ("", "", "", "a picture of ", "a drawing of ", "an image of ", "a photo of ")
POSITION_WORDS = {
    "left": ("on the left", "at the left", "to the left"),
    "right": ("on the right", "at the right", "to the right"),
    "top": ("at the top", "on top", "near the top"),
    "bottom": ("at the bottom", "on the bottom", "near the bottom"),
    "center": ("in the center", "in the middle", "in the centre"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "medium": ("",), "large": ("large", "big")}
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
    size = _one_of(SIZE_WORDS[scene.size], rng) if rng.random() < 0.6 else ""
    colour = scene.colour if rng.random() < 0.93 else ""
    noun = scene.shape if rng.random() < 0.96 else "shape"
    where = _one_of(POSITION_WORDS[scene.position], rng) if rng.random() < 0.45 else ""
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
