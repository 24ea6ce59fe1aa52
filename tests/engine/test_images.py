"""Pictures are read with care, masks understood, and PNGs carry their parameters."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import pytest
from drawn import as_png, photo
from PIL import Image

from runai.engine import images
from runai.errors import InvalidImage, TooManyPixels
from runai.schema.limits import Limits

LIMITS = Limits(max_pixels=100 * 100)
PARAMETERS: dict[str, Any] = {
    "prompt": "a circle — ein Kreis",
    "negative_prompt": "square",
    "num_inference_steps": 20,
    "sampler": "euler",
    "guidance_scale": 7.5,
    "seed": 3,
    "width": 64,
    "height": 64,
    "model": "v1/x",
    "loras": [],
    "strength": 0.5,
}


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_common_formats_are_read(format_: str) -> None:
    file = io.BytesIO()
    photo().save(file, format_)
    assert images.read(file.getvalue(), "image", LIMITS).size == (64, 64)


@pytest.mark.parametrize("format_", ["BMP", "GIF", "TIFF"])
def test_other_formats_are_refused(format_: str) -> None:
    file = io.BytesIO()
    photo().save(file, format_)
    with pytest.raises(InvalidImage):
        images.read(file.getvalue(), "image", LIMITS)


@pytest.mark.parametrize(
    "data", [b"", b"hello", as_png(photo())[:60], as_png(photo())[:-200], b"\x89PNG\r\n\x1a\n"]
)
def test_damaged_pictures_name_the_field(data: bytes) -> None:
    with pytest.raises(InvalidImage) as caught:
        images.read(data, "mask_image", LIMITS)
    assert caught.value.field == "mask_image"


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims `side` × `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [101, 50_000])
def test_a_picture_that_claims_too_many_pixels_is_not_unpacked(side: int) -> None:
    with pytest.raises(TooManyPixels):
        images.read(bomb(side), "image", LIMITS)


def test_transparent_parts_show_grey() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 255, 255, 0))
    assert list(images.opaque(image).get_flattened_data()) == [(255, 0, 0), images.NEUTRAL]


def test_a_mask_may_be_grey_or_coloured() -> None:
    for mode in ("L", "RGB", "RGBA", "1"):
        mask = images.mask_from(Image.new(mode, (1, 1), "white"))
        assert (mask.mode, mask.getpixel((0, 0))) == ("L", 255)


def test_pictures_of_16_bits_are_scaled_not_cut_off() -> None:
    deep = Image.new("I;16", (2, 1), 300)
    deep.putpixel((1, 0), 65535)
    again = images.read(as_png(deep), "image", LIMITS)
    assert list(images.mask_from(again).get_flattened_data()) == [1, 255]


def test_what_is_empty_becomes_the_mask() -> None:
    image = Image.new("RGBA", (2, 1), (1, 2, 3, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert list(images.mask_of_empty(image).get_flattened_data()) == [0, 255]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_picture_without_an_empty_part_gives_no_mask(mode: str) -> None:
    with pytest.raises(InvalidImage) as caught:
        images.mask_of_empty(Image.new(mode, (2, 2), "red"))
    assert caught.value.field == "mask_image"


def test_a_png_carries_its_parameters_for_people_and_programs() -> None:
    png = images.write_png(photo(), PARAMETERS)
    text = Image.open(io.BytesIO(png)).text  # type: ignore[attr-defined]
    assert json.loads(text["runai"]) == PARAMETERS
    assert text["parameters"].splitlines()[0] == PARAMETERS["prompt"]
    assert "Negative prompt: square" in text["parameters"]
    assert "Seed: 3" in text["parameters"] and "Denoising strength: 0.5" in text["parameters"]


def test_loras_are_written_as_tags_that_web_uis_read() -> None:
    loras = [{"name": "ink", "weight": 0.8}, {"name": "b", "weight": 1.0, "text_weight": 0.5}]
    text = images.infotext({**PARAMETERS, "loras": loras})
    assert text.splitlines()[0] == PARAMETERS["prompt"] + "<lora:ink:0.8><lora:b:0.5:1>"
