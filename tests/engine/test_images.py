"""Pictures are read with care, masks understood, and PNGs carry their parameters."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import time
from typing import Any

import picture_files
import pytest
from drawn import as_png, photo
from picture_files import chunk, written
from PIL import Image, ImageOps

from runai.engine import images
from runai.engine.bare import bared
from runai.errors import InvalidImage, TooManyPixels
from runai.schema.limits import Limits

LIMITS = Limits(max_input_pixels=100 * 100)
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


# Pillow itself warns of the second and refuses the third
@pytest.mark.parametrize("side", [101, 10_000, 50_000])
def test_a_picture_that_claims_too_many_pixels_is_not_unpacked(side: int) -> None:
    with pytest.raises(TooManyPixels, match=r"10000 (are read|pixels).*--max-input-pixels"):
        images.read(picture_files.claiming(side), "image", LIMITS)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_picture_may_have_as_many_pixels_as_are_read(form: str) -> None:
    for width in (99, 100):
        read = images.read(written(form, Image.new("RGB", (width, 100))), "image", LIMITS)
        assert read.size == (width, 100)
    with pytest.raises(TooManyPixels) as caught:
        images.read(written(form, Image.new("RGB", (101, 100))), "mask_image", LIMITS)
    assert caught.value.field == "mask_image"


@pytest.mark.parametrize("name", picture_files.BOMBS)
def test_a_bomb_is_a_picture_or_an_error_of_ours_soon_and_in_little_memory(name: str) -> None:
    data = picture_files.BOMBS[name]()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.thread_time()
    with contextlib.suppress(InvalidImage, TooManyPixels):
        assert images.opaque(images.read(data, "image", Limits())).mode == "RGB"
    images.size(data)
    assert time.thread_time() - start < 3  # on a busy machine; 0.3 s is usual
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100 * 1024  # KiB


@pytest.mark.parametrize("cut", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("form", "how"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_a_picture_that_was_cut_short_is_damaged(
    form: str, how: dict[str, Any], cut: float
) -> None:
    whole = written(form, photo(90, 90), **how)
    with pytest.raises(InvalidImage):
        images.opaque(images.read(whole[: int(len(whole) * cut)], "image", LIMITS))


# depth and type of colour of a PNG, a pixel (of less than 8 bits: as many as a byte holds) -> RGB
SOLID: dict[str, tuple[int, int, bytes, bytes, tuple[int, int, int]]] = {
    "1 bit": (1, 0, b"\xff", b"", (255, 255, 255)),
    "2 bits": (2, 0, b"\xaa", b"", (170, 170, 170)),
    "4 bits": (4, 0, b"\x33", b"", (51, 51, 51)),
    "grey": (8, 0, b"\x07", b"", (7, 7, 7)),
    "16 bits": (16, 0, b"\x80\x80", b"", (128, 128, 128)),
    "grey and alpha": (8, 4, b"\x07\xff", b"", (7, 7, 7)),
    "16 bits and alpha": (16, 4, b"\x07\x07\xff\xff", b"", (7, 7, 7)),
    "RGB": (8, 2, b"\x01\x02\x03", b"", (1, 2, 3)),
    "RGB of 16 bits": (16, 2, b"\x01\x01\x02\x02\x03\x03", b"", (1, 2, 3)),
    "RGBA": (8, 6, b"\x01\x02\x03\xff", b"", (1, 2, 3)),
    "RGBA of 16 bits": (16, 6, b"\x01\x01\x02\x02\x03\x03\xff\xff", b"", (1, 2, 3)),
    "a palette": (8, 3, b"\x01", chunk(b"PLTE", b"\0\0\0\x01\x02\x03"), (1, 2, 3)),
    "a palette of 1 bit": (1, 3, b"\xff", chunk(b"PLTE", b"\0\0\0\x01\x02\x03"), (1, 2, 3)),
    "a transparent palette": (
        8, 3, b"\x01", chunk(b"PLTE", b"\1\2\3\4\5\6") + chunk(b"tRNS", b"\xff\0"), images.NEUTRAL,
    ),
    "a transparent grey": (8, 0, b"\x07", chunk(b"tRNS", b"\0\x07"), images.NEUTRAL),
    "another transparent grey": (8, 0, b"\x07", chunk(b"tRNS", b"\0\x08"), (7, 7, 7)),
    "a transparent RGB": (8, 2, b"\1\2\3", chunk(b"tRNS", b"\0\1\0\2\0\3"), images.NEUTRAL),
}  # fmt: skip


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("name", SOLID)
def test_a_png_of_any_form_has_the_colours_that_it_says(name: str, interlaced: bool) -> None:
    depth, colour, pixel, between, wanted = SOLID[name]
    data = picture_files.solid(depth, colour, pixel, interlaced=interlaced, between=between)
    picture = images.opaque(images.read(data, "image", LIMITS))
    assert (picture.mode, picture.size, picture.getcolors()) == ("RGB", (8, 8), [(64, wanted)])


def test_a_jpeg_for_printing_has_its_colours() -> None:
    data = written("JPEG", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=100)
    red, green, blue = images.opaque(images.read(data, "image", LIMITS)).getpixel((0, 0))
    assert red > 250 and green < 5 and blue < 5


def test_what_a_jpeg_says_of_how_colours_are_meant_is_heeded() -> None:
    as_cmyk = written("JPEG", Image.new("CMYK", (8, 8), (10, 90, 200, 30)))
    at = as_cmyk.index(b"Adobe") + 11
    as_ycck = as_cmyk[:at] + b"\2" + as_cmyk[at + 1 :]
    read = [images.read(data, "image", LIMITS).tobytes() for data in (as_cmyk, as_ycck)]
    assert read == [Image.open(io.BytesIO(data)).tobytes() for data in (as_cmyk, as_ycck)]
    assert read[0] != read[1]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("turned", range(10))
def test_a_picture_is_turned_as_its_exif_says(form: str, turned: int, order: str) -> None:
    data = written(form, photo(16, 24), exif=picture_files.exif(turned, order))
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    read = images.read(data, "image", LIMITS)
    assert read.size == wanted.size
    assert read.tobytes() == wanted.tobytes()


def test_what_lies_beside_the_pixels_changes_none() -> None:
    beside = [(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"), (0xE2, b"ICC_PROFILE\0\1\1x")]
    data = picture_files.jpeg_with(*(picture_files.segment(*pair) for pair in beside), b"\xff")
    again = images.read(data, "image", LIMITS)
    assert again.tobytes() == images.read(written("JPEG"), "image", LIMITS).tobytes()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_video_behind_a_photo_changes_nothing(progressive: bool) -> None:
    thumbnail = picture_files.segment(0xE1, b"Exif\0\0" + written("JPEG"))
    alone = written("JPEG", photo(64, 48), progressive=progressive)
    video = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x08" * 500
    data = alone[:2] + thumbnail + alone[2:] + video
    assert images.read(data, "image", LIMITS).tobytes() == (
        images.read(alone, "image", LIMITS).tobytes()
    )
    assert len(bared(data).data) == len(alone)


def test_of_an_animation_the_first_picture_is_read() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    for form in ("PNG", "WEBP"):
        how: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
        data = written(form, frames[0], save_all=True, append_images=frames[1:], **how)
        read = images.opaque(images.read(data, "image", LIMITS))
        assert read.getcolors() == [(64, (255, 0, 0))]


def test_a_picture_whose_size_cannot_be_told_has_none() -> None:
    assert images.size(as_png(photo(24, 16))) == (24, 16)
    assert images.size(picture_files.claiming(10_000)) == (10_000, 10_000)
    assert images.size(b"hello") is images.size(picture_files.claiming(50_000)) is None


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
