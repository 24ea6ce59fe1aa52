"""File bytes to pictures and back. Pillow only; the pixels never touch a disk."""

from __future__ import annotations

import io
import json
from typing import Any

from PIL import Image, ImageOps, PngImagePlugin

from runai.errors import InvalidImage, TooManyPixels
from runai.schema.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP")
NEUTRAL = (127, 127, 127)  # what stands behind transparent pixels: zero for the VAE
Picture = Image.Image


def read(data: bytes, field: str, limits: Limits) -> Picture:
    """A PNG, JPEG or WebP file's picture, upright.

    Its size is checked before its pixels are unpacked. Raises InvalidImage, TooManyPixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooManyPixels(
            f"The picture has far more than {limits.max_pixels} pixels.", field=field
        ) from None
    except (OSError, ValueError, SyntaxError):
        raise InvalidImage("These bytes are no PNG, JPEG or WebP picture.", field=field) from None
    limits.check_size(*image.size, field=field)
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        raise InvalidImage(f"The picture is damaged: {error}.", field=field) from None


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
