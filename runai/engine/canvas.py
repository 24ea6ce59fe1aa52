"""A request's canvas: what its pictures have in common, read and encoded once.

Its size, and the given pictures as the networks see them. Everything that depends on a seed
is left to `starts`. Pictures are read, and sizes checked, before there is a model (`read`); what
the networks make of them comes after (`prepare`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor

from runai.engine import images
from runai.engine.archs import Arch
from runai.engine.geometry import Extent, chosen
from runai.engine.model import LoadedModel
from runai.errors import ModelUnsupported
from runai.schema.limits import Limits
from runai.schema.requests import (
    GenerationRequest,
    ImageToImage,
    Inpaint,
    Outpaint,
    TextToImage,
    Upscale,
)


@dataclass(frozen=True)
class Canvas:
    """What the pictures of one request have in common. None where the task has none.

    `picture`, `masked`: the VAE's posterior of the picture to start from, and of what the mask
    keeps of it. `mask`: 1 × 1 × h × w in latents, 1 = repaint. `beside`: 1 × c × h × w, what the
    UNet reads beside the latents, whatever the seed. `small`: 1 × 3 × h × w, the picture to
    enlarge, as pixels from -1 to 1.
    """

    extent: Extent
    strength: float = 1.0
    picture: Any = None
    masked: Any = None
    mask: torch.Tensor | None = None
    beside: torch.Tensor | None = None
    small: torch.Tensor | None = None


@dataclass(frozen=True)
class Given:
    """What a request gives to draw from. `picture`: RGB. `mask`: L, white = repaint.

    `extent`: of what is to be drawn, as far as a model has no say in it.
    """

    picture: images.Picture | None = None
    mask: images.Picture | None = None
    extent: Extent | None = None


def read(request: GenerationRequest, arch: Arch, limits: Limits) -> Given:
    """A request's pictures, unpacked. Raises InvalidImage, and TooManyPixels for what is given
    and for what is to be drawn.
    """
    if isinstance(request, TextToImage):
        both = Extent(request.width or 0, request.height or 0)
        return Given(extent=_checked(both, limits) if all(both.size) else None)
    given = images.read(request.image, "image", limits)
    picture = images.opaque(given)
    if isinstance(request, Upscale):
        return Given(picture, extent=_enlarged(picture, arch, limits))
    extent = chosen(request.width, request.height, Extent(*given.size).floor())
    mask = None if isinstance(request, ImageToImage) else _mask_picture(request, given, limits)
    blamed = "width" if request.width or request.height else "image"
    return Given(picture, mask, _checked(extent, limits, blamed))


def prepare(model: LoadedModel, request: GenerationRequest, given: Given, limits: Limits) -> Canvas:
    """The canvas of a request from what was read of it. Raises TooManyPixels.

    The model must be able to do the request's task (`arch.tasks`).
    """
    if isinstance(request, TextToImage):
        own = Extent(model.size, model.size)
        return Canvas(_checked(chosen(request.width, request.height, own), limits))
    # all other tasks have both
    assert given.picture is not None and given.extent is not None  # noqa: S101 (for mypy)
    if isinstance(request, Upscale):
        return _enlarging(model, given.picture, given.extent)
    canvas = Canvas(given.extent, request.strength)
    if given.mask is None:
        return _FROM_PICTURE[model.arch.beside](model, given.picture, canvas)
    return _masked(model, canvas, given.picture, given.mask)


def _checked(extent: Extent, limits: Limits, field: str = "width") -> Extent:
    """The size to draw; TooManyPixels before anything of that size is made."""
    limits.check_size(*extent.size, field=field)
    return extent


# --- a picture ---------------------------------------------------------------------------


def _started_from(model: LoadedModel, picture: images.Picture, canvas: Canvas) -> Canvas:
    pixels = _pixels(model.images, picture, canvas.extent)
    return replace(canvas, picture=_posterior(model, pixels))


def _edited(model: LoadedModel, picture: images.Picture, canvas: Canvas) -> Canvas:
    """The picture is read beside latents that begin as noise: no strength, and its latents are
    not scaled, as instruct-pix2pix was trained.
    """
    pixels = _pixels(model.images, picture, canvas.extent)
    return Canvas(canvas.extent, beside=_posterior(model, pixels).mode().float())


def _with_depth(model: LoadedModel, picture: images.Picture, canvas: Canvas) -> Canvas:
    started = _started_from(model, picture, canvas)
    return replace(started, beside=_depths(model, picture, canvas.extent))


_FROM_PICTURE: dict[str, Callable[[LoadedModel, images.Picture, Canvas], Canvas]] = {
    "nothing": _started_from,
    "mask": _started_from,
    "picture": _edited,
    "depth": _with_depth,
}


def _depths(model: LoadedModel, picture: images.Picture, extent: Extent) -> torch.Tensor:
    """The depths in a picture, from -1 to 1: 1 × 1 × h × w in latents."""
    if model.depth is None:
        raise ModelUnsupported(
            f"{model.name} needs a depth estimator, and came without one.",
            hint="Use its diffusers folder, with depth_estimator/ and feature_extractor/ in it.",
            field="model",
        )
    pixels = model.depth.images(images=picture, return_tensors="pt").pixel_values
    half = model.dtype != torch.float32
    # a DPT may hold batch norms, which do not run in half precision
    casting = torch.autocast(model.device.type, model.dtype) if half else contextlib.nullcontext()
    with casting:
        said = model.depth.network(pixels.to(model.device, model.dtype)).predicted_depth
    depths = torch.nn.functional.interpolate(
        said.float().unsqueeze(1), size=_latent_size(model, extent), mode="bicubic"
    )
    low, high = depths.amin(), depths.amax()
    # of a picture that is equally far everywhere: no division by nothing
    return 2 * (depths - low) / (high - low).clamp_min(torch.finfo(depths.dtype).tiny) - 1


def _enlarged(picture: images.Picture, arch: Arch, limits: Limits) -> Extent:
    """What a picture, cut down to whole latents, comes to. Raises TooManyPixels."""
    scale = arch.scale
    small = Extent(*picture.size).floor(scale, smallest=scale)
    extent = Extent(small.width * scale, small.height * scale)
    limits.check_size(*extent.size, field="image")
    return extent


def _enlarging(model: LoadedModel, picture: images.Picture, extent: Extent) -> Canvas:
    """The picture is itself as large as the latents drawn from it."""
    small = Extent(extent.width // model.scale, extent.height // model.scale)
    processor = VaeImageProcessor(vae_scale_factor=model.scale, resample="bicubic")
    return Canvas(extent, small=_pixels(processor, picture, small).to(model.device))


# --- a picture and a mask ----------------------------------------------------------------


def _mask_picture(
    request: Inpaint | Outpaint, given: images.Picture, limits: Limits
) -> images.Picture:
    if request.mask_image is None:
        return images.mask_of_empty(given)
    return images.mask_from(images.read(request.mask_image, "mask_image", limits))


def _masked(
    model: LoadedModel, canvas: Canvas, picture: images.Picture, mask: images.Picture
) -> Canvas:
    pixels = _pixels(model.images, picture, canvas.extent)
    holes = _pixels(model.masks, mask, canvas.extent)
    small = torch.nn.functional.interpolate(holes, size=_latent_size(model, canvas.extent))
    return replace(
        canvas,
        picture=_posterior(model, pixels),
        # only a 9-channel UNet reads it; for others its place in the random order is kept
        masked=_posterior(model, pixels * (holes < 0.5)) if model.inpaints else None,
        mask=small.to(model.device),
    )


# --- common ------------------------------------------------------------------------------


def _latent_size(model: LoadedModel, extent: Extent) -> tuple[int, int]:
    """Height and width."""
    return extent.height // model.scale, extent.width // model.scale


def _pixels(processor: Any, picture: images.Picture, extent: Extent) -> torch.Tensor:
    pixels: torch.Tensor = processor.preprocess(picture, height=extent.height, width=extent.width)
    return pixels.float()


def _posterior(model: LoadedModel, pixels: torch.Tensor) -> Any:
    return model.vae.encode(pixels.to(model.device, model.vae.dtype)).latent_dist
