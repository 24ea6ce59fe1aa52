"""A model in memory: its parts, on their device, ready to draw.

Everything the rooms of the engine need to know of a model is here, so that none of them reads
a configuration for itself. The parts are shared by all who draw with the model; what a request
wants otherwise (another VAE, LoRAs) never changes them for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from runai.engine.archs import Arch, Defaults
from runai.engine.catalogue import Entry
from runai.engine.devices import Place


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
class LoadedModel:
    """The parts of one model. `scheduler`: the configuration every sampler is made from.

    `depth`: the depth estimator of a depth model, or None.
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
    depth: Any = None

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

    @property
    def scale(self) -> int:
        """Pixels per latent, along a side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def inpaints(self) -> bool:
        """Whether the UNet reads a mask and the masked picture beside the latents."""
        return self.arch.beside == "mask"
