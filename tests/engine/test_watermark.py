"""The watermark is in the picture that the client gets, or the client is told that it is not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drawn import as_png, last, make_request, run
from hidden import said_without
from PIL import Image

from runai.engine.engine import TorchEngine
from runai.engine.watermark import PAYLOADS, UNREADABLE, Watermark, is_in, write
from runai.errors import DependencyMissing, InvalidField
from runai.schema.events import Version
from runai.testing import shapes

pytest.importorskip("imwatermark", reason="the watermark's package is not installed")
SCENE = shapes.Scene("square", "yellow", "purple", "left", "medium", 0.3, 0.5, 0.24)


def cloudy(side: int, seed: int, contrast: float) -> Image.Image:
    """A picture whose detail falls with its fineness, as that of photographs does."""
    rng = np.random.default_rng(seed)
    ways = np.fft.fftfreq(side)
    fineness = np.hypot(ways[:, None], ways[None])
    fineness[0, 0] = 1 / side

    def layer() -> np.ndarray:
        noise = np.fft.fft2(rng.normal(size=(side, side)))
        made = np.fft.ifft2(noise / fineness**1.2).real
        return (made - made.mean()) / made.std()

    light = layer()
    colours = np.stack([light + 0.3 * layer() for _ in range(3)], axis=-1)
    return Image.fromarray(np.clip(128 + contrast * colours, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("version", PAYLOADS)
@pytest.mark.parametrize("contrast", [20, 40, 60])
@pytest.mark.parametrize("side", [256, 512])
def test_what_is_written_can_be_read_from_the_png(
    side: int, contrast: float, version: Version
) -> None:
    for seed in range(2):
        picture = cloudy(side, seed, contrast)
        assert not is_in(picture, version)
        marked = Image.open(io.BytesIO(as_png(write(picture, version))))
        assert is_in(marked, version)


@pytest.mark.parametrize("picture", [cloudy(256, 0, 40), shapes.draw(SCENE).resize((256, 256))])
def test_it_changes_a_picture_by_a_few_levels(picture: Image.Image) -> None:
    before, after = (np.asarray(p).astype(int) for p in (picture, write(picture, "v1")))
    assert 0 < abs(after - before).mean() < 3
    assert np.percentile(abs(after - before), 95) <= 12


def test_other_versions_say_something_else() -> None:
    marked = write(cloudy(256, 0, 40), "v1")
    assert is_in(marked, "v1")
    assert not is_in(marked, "v2") and not is_in(marked, "xl")


@pytest.fixture(scope="module")
def warning(models: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(models, device="cpu", dtype="fp32", watermark_missing="warn")
    yield engine
    engine.close()


def png_of(engine: TorchEngine, **fields: object) -> tuple[Image.Image, list[str]]:
    done = last(run(engine, {"k": make_request(num_inference_steps=2, **fields)})["k"])
    return Image.open(io.BytesIO(done.images[0].png)), done.notes


@pytest.mark.parametrize(("model", "version"), [("v1/plain", "v1"), ("v2/velocity", "v2")])
def test_a_picture_that_was_asked_for_with_a_watermark_has_it(
    engine: TorchEngine, model: str, version: Version
) -> None:
    size = {"width": 256, "height": 256, "model": model}
    marked, notes = png_of(engine, watermark=True, **size)
    assert is_in(marked, version) != (UNREADABLE in notes)
    plain, silence = png_of(engine, **size)
    assert not is_in(plain, version) and silence == []
    difference = abs(np.asarray(marked).astype(int) - np.asarray(plain).astype(int))
    assert 0 < difference.mean() < 12  # what a random network draws is nearly noise


def test_a_picture_too_small_for_it_is_refused_or_noted(
    engine: TorchEngine, warning: TorchEngine
) -> None:
    with pytest.raises(InvalidField) as caught:
        engine.admit("k", make_request(watermark=True))
    assert caught.value.field == "watermark"
    assert not engine.is_busy()
    picture, notes = png_of(warning, watermark=True)
    assert len(notes) == 1 and "64 × 64" in notes[0]
    assert picture.size == (64, 64)


@pytest.mark.parametrize(("colour", "notes"), [((0, 0, 255), [UNREADABLE]), ((128, 128, 128), [])])
def test_a_watermark_that_cannot_be_read_back_is_told(
    colour: tuple[int, int, int], notes: list[str]
) -> None:
    """There is no more blue than blue: what was written is cut off."""
    marked, said = Watermark().mark(Image.new("RGB", (256, 256), colour), "v1")
    assert said == notes
    assert is_in(marked, "v1") == (not notes)


HIDDEN = """
from runai.engine.geometry import Extent
from runai.engine.watermark import Watermark
from runai.errors import DependencyMissing
from runai.schema.codec import parse_task
request = parse_task({"id": "r", "task": "txt2img", "watermark": True})
silent = parse_task({"id": "r", "task": "txt2img"})
size = Extent(512, 512)
assert Watermark().require(silent, size) == []
print(*Watermark("warn").require(request, size))
try:
    Watermark().require(request, size)
except DependencyMissing as error:
    print(error)
"""


def test_without_the_package_it_says_which_one_to_install() -> None:
    note, error = said_without("imwatermark", HIDDEN)
    assert note.startswith("No watermark was written: ")
    assert "invisible-watermark" in note
    assert "runai[watermark]" in error and DependencyMissing.code in error
