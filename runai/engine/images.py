"""File bytes to pictures and back. Pillow only; the pixels never touch a disk.

Whatever bytes a client sends as a picture: it is a picture of at most the pixels that the limits
allow, or an InvalidImage or TooManyPixels, in bounded time and memory. What is not pixels is cut
out of the file first (`bare`).
"""

from __future__ import annotations

import io
import json
import struct
import warnings
from typing import Any

from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from runai.engine.bare import bared, orientation
from runai.errors import InvalidImage, TooManyPixels
from runai.schema.codec import shortened
from runai.schema.limits import INPUT_HINT, Limits

FORMATS = ("PNG", "JPEG", "WEBP")
NEUTRAL = (127, 127, 127)  # what stands behind transparent pixels: zero for the VAE
# what Pillow and its decoders raise for a damaged file
FAULTS = (
    OSError,
    ValueError,
    SyntaxError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    struct.error,
)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Picture = Image.Image


def read(data: bytes, field: str, limits: Limits) -> Picture:
    """A PNG, JPEG or WebP file's picture, upright; of an animation the first one.

    Its size is checked before its pixels are unpacked. Raises InvalidImage, TooManyPixels.
    """
    with warnings.catch_warnings():  # what they say of a client's picture is no news for a log
        warnings.simplefilter("ignore")
        return _read(data, field, limits)


def _read(data: bytes, field: str, limits: Limits) -> Picture:
    try:
        image, exif = _opened(data)
    except Image.DecompressionBombError:
        raise TooManyPixels(
            f"The picture has far more than {limits.max_input_pixels} pixels.",
            hint=INPUT_HINT,
            field=field,
        ) from None
    except UnidentifiedImageError:
        raise InvalidImage("These bytes are no PNG, JPEG or WebP picture.", field=field) from None
    except FAULTS as error:
        raise _damaged(error, field) from None
    limits.check_input(*image.size, field=field)
    try:
        image.load()
    except FAULTS as error:
        raise _damaged(error, field) from None
    return _upright(image, exif)


def size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a file's picture as it lies there; None if it cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _opened(data)[0].size
        except (*FAULTS, Image.DecompressionBombError):
            return None


def _opened(data: bytes) -> tuple[Picture, bytes]:
    """The picture, not yet unpacked, and its EXIF."""
    bare = bared(data)
    image = Image.open(io.BytesIO(bare.data), formats=FORMATS)
    return image, bare.exif or image.info.get("exif", b"")


def _upright(image: Picture, exif: bytes) -> Picture:
    """The picture alone, without the file it is from, turned as its EXIF says."""
    turn = TURNS.get(orientation(exif))
    return image.copy() if turn is None else image.transpose(turn)


def _damaged(error: Exception, field: str) -> InvalidImage:
    return InvalidImage(f"The picture is damaged: {shortened(str(error), 100)}.", field=field)


def opaque(image: Picture) -> Picture:
    """The picture as RGB; transparent parts show a neutral grey."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which `convert` would cut off, not scale
        return image.convert("I").point(lambda value: value / 257).convert("L").convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layers = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, (*NEUTRAL, 255))
    return Image.alpha_composite(ground, layers).convert("RGB")


def mask_from(image: Picture) -> Picture:
    """A mask (L: white = repaint) from a picture that is one."""
    return opaque(image).convert("L")


def mask_of_empty(image: Picture) -> Picture:
    """A mask that is white where the picture is transparent; InvalidImage if nowhere."""
    if image.has_transparency_data:
        empty = ImageOps.invert(image.convert("RGBA").getchannel("A"))
        if empty.getextrema() != (0, 0):
            return empty
    raise InvalidImage(
        "There is no mask, and the picture has no transparent part to fill.",
        hint="Send a mask_image (white: fill), or a picture with transparency.",
        field="mask_image",
    )


def write_png(image: Picture, parameters: dict[str, Any]) -> bytes:
    """An RGB PNG; `parameters` go into its text chunks `parameters` (to read) and `runai` (JSON).

    `parameters` has the form that web UIs write, so that their tools can read it.
    """
    text = PngImagePlugin.PngInfo()
    text.add_itxt("parameters", infotext(parameters))
    text.add_itxt("runai", json.dumps(parameters, ensure_ascii=False))
    file = io.BytesIO()
    # level 1: a fifth of the time of the default for a tenth more bytes
    image.convert("RGB").save(file, "PNG", compress_level=1, pnginfo=text)
    return file.getvalue()


def write_small_png(image: Picture) -> bytes:
    """A bare PNG, for previews."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def infotext(p: dict[str, Any]) -> str:
    """The parameters as the text that web UIs put into their pictures."""
    strength = p.get("strength")
    pairs = {
        "Steps": p["num_inference_steps"],
        "Sampler": p["sampler"],
        "CFG scale": p["guidance_scale"],
        "Seed": p["seed"],
        "Size": f"{p['width']}x{p['height']}",
        "Model": p["model"],
        **({} if strength is None else {"Denoising strength": strength}),
        **({"Token merging ratio": p["token_merging"]} if p.get("token_merging") else {}),
    }
    negative = f"\nNegative prompt: {p['negative_prompt']}" if p["negative_prompt"] else ""
    listed = ", ".join(f"{name}: {value}" for name, value in pairs.items())
    tags = "".join(map(_tag, p["loras"]))
    return f"{p['prompt']}{tags}{negative}\n{listed}"


def _tag(lora: dict[str, Any]) -> str:
    """A LoRA as web UIs write it: its weights for the text and, where it is another, the UNet."""
    text = lora.get("text_weight")
    weights = [lora["weight"]] if text is None else [text, lora["weight"]]
    return f"<lora:{lora['name']}:{':'.join(f'{weight:g}' for weight in weights)}>"
