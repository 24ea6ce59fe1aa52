"""Finished latents to pictures, and unfinished ones to previews.

The VAE is shared by all who draw with a model: what one call needs otherwise (tiles, another
number format) is set for that call and set back after it. Weights come back bit for bit: every
fp16 or bf16 number is an fp32 number too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from PIL import Image

from runai.engine.backends import Decoder, torch_networks
from runai.engine.images import Picture, write_small_png
from runai.engine.model import LoadedModel
from runai.engine.plan import TILE
from runai.errors import NotFinite

_PATCH = 32  # pixels: wide enough that the middle of a patch sees only its own colour
_LEVELS = (0, 127, 255)


@torch.inference_mode()
def decode(
    model: LoadedModel,
    latents: torch.Tensor,
    *,
    decoder: Decoder | None = None,
    tiled: bool = False,
) -> Picture:
    """The RGB picture of latents 1 × 4 × h × w, by torch if no decoder is given. Raises NotFinite.

    In tiles, and in fp32 instead of another format, torch alone decodes.

    A VAE in half precision can leave the range of its numbers. What comes out then is not
    finite, or is clipped to black: that is decoded again in fp32, whose answer counts.
    """
    by_torch = torch_networks(model).decoder
    vae = model.decoding
    with vae_ready(model, vae, tiled=tiled):
        pixels = _decoded(model, latents, by_torch if tiled else decoder or by_torch)
    if vae.dtype != torch.float32 and _is_spoiled(pixels):
        with vae_ready(model, vae, tiled=tiled, precise=True):
            pixels = _decoded(model, latents, by_torch)
    if not bool(torch.isfinite(pixels).all()):
        raise NotFinite(f"{model.name} produced numbers that are no picture, in {model.dtype}.")
    picture: Picture = model.images.postprocess(pixels, output_type="pil")[0]
    return picture


@contextmanager
def vae_ready(
    model: LoadedModel, vae: Any, *, tiled: bool, precise: bool = False
) -> Iterator[None]:
    """A VAE of the model as it has to be for encoding and decoding: in tiles, in fp32.

    fp32 where that is asked for, and in fp16 where the model's configuration says that it
    needs more (`force_upcast` of SDXL's, as diffusers reads it).
    """
    dtype = vae.dtype
    before = vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size
    try:
        if tiled:
            vae.use_tiling = True
            vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // model.scale
        if precise or _needs_fp32(model, vae):
            _cast(vae, torch.float32)
        yield
    finally:
        vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size = before
        _cast(vae, dtype)


@torch.inference_mode(False)  # or the weights would become tensors that nobody may change
def _cast(vae: Any, dtype: torch.dtype) -> None:
    if vae.dtype != dtype:
        for part in vae.children():  # diffusers warns when it is asked to cast the whole
            part.to(dtype)


def _needs_fp32(model: LoadedModel, vae: Any) -> bool:
    forced = model.arch.version == "xl" and vae.config.force_upcast
    return bool(forced and vae.dtype == torch.float16)


def _decoded(model: LoadedModel, latents: torch.Tensor, decoder: Decoder) -> torch.Tensor:
    """Pixels from -1 to 1, roughly; fp32."""
    return decoder(model.unscaled(latents))


def _is_spoiled(pixels: torch.Tensor) -> bool:
    return not bool(torch.isfinite(pixels).all()) or bool((pixels <= -1).all())


class Previewer:
    """Latents to small pictures without the VAE: one pixel per latent, by a linear map.

    The map from a latent's 4 numbers to RGB is fitted once per model: patches of known
    colours are encoded and the least-squares solution taken. Models' VAEs differ, so a map
    that is published for one of them would show another's colours wrong.
    """

    def __init__(self) -> None:
        # goes with its model: one that was unloaded leaves no map behind
        self._maps: WeakKeyDictionary[LoadedModel, torch.Tensor] = WeakKeyDictionary()

    @torch.inference_mode()
    def draw(self, model: LoadedModel, latents: torch.Tensor) -> bytes:
        """A PNG of h × w pixels for latents 1 × 4 × h × w."""
        fitted = self._maps.get(model)
        if fitted is None:
            fitted = self._maps[model] = _fit(model)
        rgb = _with_one(latents.float().cpu()) @ fitted
        bytes_ = (rgb.nan_to_num().clamp(0, 1) * 255).round().byte()
        return write_small_png(Image.fromarray(bytes_.numpy(), "RGB"))


def _fit(model: LoadedModel) -> torch.Tensor:
    """The 5 × 3 matrix from (latent, 1) to RGB in 0..1."""
    colours = [(r, g, b) for r in _LEVELS for g in _LEVELS for b in _LEVELS]
    chart = Image.new("RGB", (_PATCH * len(colours), _PATCH))
    for i, colour in enumerate(colours):
        chart.paste(colour, (i * _PATCH, 0, (i + 1) * _PATCH, _PATCH))
    pixels = model.images.preprocess(chart)
    with vae_ready(model, model.vae, tiled=False):
        encoded = model.vae.encode(pixels.to(model.device, model.vae.dtype)).latent_dist.mode()
    rows = _with_one(model.scaled(encoded).float().cpu())
    step = _PATCH // model.scale
    middles = rows[rows.shape[0] // 2, step // 2 :: step]
    wanted = torch.tensor(colours, dtype=torch.float32) / 255
    return torch.linalg.lstsq(middles, wanted).solution


def _with_one(latents: torch.Tensor) -> torch.Tensor:
    """1 × 4 × h × w to h × w × 5, the last one a constant."""
    last = latents[0].permute(1, 2, 0)
    return torch.cat([last, torch.ones_like(last[..., :1])], dim=-1)
