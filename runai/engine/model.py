"""A model in memory: its parts, on their device, ready to draw.

Everything the rooms of the engine need to know of a model is here, so that none of them reads
a configuration for itself. The parts are shared by all who draw with the model; what a request
wants otherwise (another VAE, LoRAs) never changes them for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from runai.engine.archs import Arch, Defaults
from runai.engine.catalogue import Entry
from runai.engine.devices import Place

SMALL_PARAMETERS = 100_000_000  # of a UNet; Stable Diffusion 1 has 860 million


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A text encoder with its tokenizer. `layer`, `pooled`: see `archs.TextEncoding`."""

    tokenizer: Any
    network: Any
    layer: int = -1
    pooled: bool = False

    @property
    def length(self) -> int:
        """Tokens of one chunk, start and end included."""
        return int(self.network.config.max_position_embeddings)


@dataclass(frozen=True, eq=False)
class DepthEstimator:
    """Tells how far away things in a picture are: a DPT and its image processor."""

    network: Any
    images: Any


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """The parts of one model. `scheduler`: the configuration every sampler is made from.

    `depth`: of a depth model, or None if it came without. `tiny`: a tiny autoencoder that decodes
    in the place of the VAE, which encodes all the same.
    """

    entry: Entry
    arch: Arch
    unet: Any
    vae: Any
    texts: tuple[TextEncoder, ...]
    scheduler: dict[str, Any]
    place: Place
    images: Any
    masks: Any
    defaults: Defaults
    depth: DepthEstimator | None = None
    tiny: Any = None

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def device(self) -> torch.device:
        return self.place.device

    @property
    def dtype(self) -> torch.dtype:
        return self.place.dtype

    @property
    def size(self) -> int:
        """The native side of its pictures, in pixels."""
        return int(self.unet.config.sample_size) * self.scale

    @cached_property
    def is_small(self) -> bool:
        """Whether drawing one picture leaves most devices, or a processor's threads, idle."""
        return sum(p.numel() for p in self.unet.parameters()) < SMALL_PARAMETERS

    @property
    def scale(self) -> int:
        """Pixels per latent, along a side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def decoding(self) -> Any:
        """The VAE that decodes."""
        return self.vae if self.tiny is None else self.tiny

    @property
    def inpaints(self) -> bool:
        """Whether the UNet reads a mask and the masked picture beside the latents."""
        return self.arch.beside == "mask"

    @property
    def guidance_width(self) -> int | None:
        """Of the embedding by which a guidance-distilled UNet is told how much guidance to draw
        with (Meng et al. 2023; LCM, Luo et al. 2023); None for all that are guided by two rows.
        """
        width: int | None = getattr(self.unet.config, "time_cond_proj_dim", None)
        return width

    @property
    def has_latent_statistics(self) -> bool:
        """Whether its latents are not those of its kind: centred channel by channel."""
        said = (getattr(self.vae.config, f"latents_{name}", None) for name in ("mean", "std"))
        return None not in said

    def scaled(self, encoded: torch.Tensor) -> torch.Tensor:
        """What the VAE's encoder gave, as latents: of about unit variance, 1 × 4 × h × w."""
        mean, std = self._statistics(encoded)
        return (encoded - mean) * self.vae.config.scaling_factor / std

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """What is decoded of latents: for the VAE the inverse of `scaled`. A tiny autoencoder takes
        them as they are: the factor in its configuration is 1.
        """
        if self.tiny is not None:
            return latents / self.tiny.config.scaling_factor
        mean, std = self._statistics(latents)
        return latents * std / self.vae.config.scaling_factor + mean

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        """Mean and deviation of each channel, for the few VAEs that state them."""
        if not self.has_latent_statistics:
            return 0.0, 1.0
        said = self.vae.config.latents_mean, self.vae.config.latents_std
        mean, std = (like.new_tensor(values).view(1, -1, 1, 1) for values in said)
        return mean, std
