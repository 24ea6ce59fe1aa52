"""Finished latents to pictures, and unfinished ones to previews."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from PIL import Image

from runai.engine.images import Picture, write_small_png
from runai.engine.model import LoadedModel
from runai.errors import NotFinite

_PATCH = 32  # pixels: wide enough that the middle of a patch sees only its own colour
_LEVELS = (0, 127, 255)


@torch.inference_mode()
def decode(model: LoadedModel, latents: torch.Tensor) -> Picture:
    """The RGB picture of latents 1 × 4 × h × w. Raises NotFinite."""
    scaled = (latents / model.vae.config.scaling_factor).to(model.dtype)
    pixels = model.vae.decode(scaled, return_dict=False)[0].float()
    if not bool(torch.isfinite(pixels).all()):
        raise NotFinite(f"{model.name} produced numbers that are no picture, in {model.dtype}.")
    picture: Picture = model.images.postprocess(pixels, output_type="pil")[0]
    return picture


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
    pixels = model.images.preprocess(chart).to(model.device, model.dtype)
    latents = model.vae.encode(pixels).latent_dist.mode() * model.vae.config.scaling_factor
    rows = _with_one(latents.float().cpu())
    step = _PATCH // model.scale
    middles = rows[rows.shape[0] // 2, step // 2 :: step]
    wanted = torch.tensor(colours, dtype=torch.float32) / 255
    return torch.linalg.lstsq(middles, wanted).solution


def _with_one(latents: torch.Tensor) -> torch.Tensor:
    """1 × 4 × h × w to h × w × 5, the last one a constant."""
    last = latents[0].permute(1, 2, 0)
    return torch.cat([last, torch.ones_like(last[..., :1])], dim=-1)
