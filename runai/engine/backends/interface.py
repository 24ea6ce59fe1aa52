"""What the step loop and `finish` ask of a backend: torch tensors in, torch tensors out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from runai.schema.events import Backend


class Denoiser(Protocol):
    """A UNet. `backend`: whose answer it gives. `is_settled`: whether calls like its newest one
    will go on taking as long as that did.
    """

    @property
    def backend(self) -> Backend: ...

    @property
    def is_settled(self) -> bool: ...

    def __call__(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor,
        told: Mapping[str, Any],
    ) -> torch.Tensor:
        """What the UNet says, rows × 4 × h × w in fp32.

        `latents`: rows × channels × h × w. `timesteps`: one a row. `text`: rows × tokens ×
        width. `told`: what else this UNet reads, as keyword arguments of diffusers'.
        """
        ...


class Decoder(Protocol):
    """A VAE's way from latents to pixels."""

    @property
    def backend(self) -> Backend: ...

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """1 × 4 × h × w, `unscaled`, to 1 × 3 × height × width: about -1 to 1, in fp32."""
        ...


@dataclass(frozen=True)
class Networks:
    """What a sample is drawn by, from its first step to its picture."""

    denoiser: Denoiser
    decoder: Decoder
