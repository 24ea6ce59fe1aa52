"""Drawing, captions and recognition of the example model's pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from runai.testing.shapes import (
    COLOURS,
    Scene,
    caption,
    combinations,
    draw,
    plain_caption,
    random_scene,
    recognise,
)

LEFT = Scene("circle", "red", "blue", "left", "large", 0.35, 0.5, 0.31)


def _blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(1.2))


def _noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    noise = rng.normal(0, 10, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def _untouched(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image


@pytest.mark.parametrize("spoil", [_untouched, _blurred, _noisy])
def test_it_recognises_what_it_draws(spoil) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(7)
    right = 0
    for _ in range(400):
        scene = random_scene(rng)
        seen = recognise(spoil(draw(scene, 128), rng))
        asked = (scene.shape, scene.colour, scene.background, scene.position)
        right += (seen.shape, seen.colour, seen.background, seen.position) == asked
    assert right >= 398  # 99.5 %


def test_every_combination_is_told_from_every_other() -> None:
    for shape, colour, background in combinations():
        scene = Scene(shape, colour, background, "center", "medium", 0.5, 0.5, 0.24)
        seen = recognise(draw(scene))
        assert (seen.shape, seen.colour, seen.background) == (shape, colour, background)


def test_the_place_and_size_it_finds_are_those_drawn() -> None:
    seen = recognise(draw(LEFT))
    assert (seen.x, seen.y, seen.radius) == pytest.approx((0.35, 0.5, 0.31), abs=0.01)
    assert (seen.position, seen.size) == ("left", "large")
    assert seen.area == pytest.approx(np.pi * 0.31**2, abs=0.01)
    assert seen.likeness > 0.95


@pytest.mark.parametrize("extent", [(64, 64), (96, 128), (512, 256)])
def test_a_scene_has_no_size_of_its_own(extent: tuple[int, int]) -> None:
    image = draw(LEFT, *extent)
    assert image.size == extent
    seen = recognise(image)
    assert (seen.shape, seen.colour, seen.background) == ("circle", "red", "blue")


@pytest.mark.parametrize("colour", COLOURS)
def test_on_an_empty_ground_it_sees_no_shape(colour: str) -> None:
    seen = recognise(Image.new("RGB", (128, 128), COLOURS[colour]))
    assert (seen.background, seen.shape, seen.colour) == (colour, None, None)


def test_noise_alone_is_no_shape() -> None:
    rng = np.random.default_rng(1)
    assert recognise(_noisy(Image.new("RGB", (128, 128), COLOURS["green"]), rng)).shape is None


def test_two_different_shapes_are_drawn_as_different_pictures() -> None:
    other = Scene("square", "red", "blue", "left", "large", 0.35, 0.5, 0.31)
    assert draw(LEFT).tobytes() != draw(other).tobytes()


def test_a_plain_caption_names_colour_shape_and_ground() -> None:
    assert plain_caption(LEFT) == "a red circle on a blue background"


def test_orange_asks_for_an() -> None:
    scene = Scene("star", "orange", "orange", "top", "small", 0.5, 0.2, 0.16)
    assert plain_caption(scene) == "an orange star on an orange background"


def test_captions_leave_parts_out_but_never_say_anything_untrue() -> None:
    rng = np.random.default_rng(3)
    captions = {caption(LEFT, rng) for _ in range(2000)}
    assert {"a red circle", "a red circle on a blue background"} <= captions
    assert len(captions) > 100
    for words in (text.replace(",", "").split() for text in captions):
        colours = [word for word in words if word in COLOURS]
        assert colours in ([], ["red"], ["blue"], ["red", "blue"])
        assert not {"small", "little", "tiny", "right", "top", "bottom"} & set(words)
        assert "  " not in " ".join(words)


def test_the_same_generator_state_gives_the_same_scene_and_caption() -> None:
    first, second = np.random.default_rng(5), np.random.default_rng(5)
    assert random_scene(first) == random_scene(second)
    assert caption(LEFT, first) == caption(LEFT, second)
