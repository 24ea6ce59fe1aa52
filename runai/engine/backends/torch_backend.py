"""diffusers' own networks, called as they are: the backend that can everything.

A model's parts may move, change their dtype for a call or be hooked: so they are looked up at
every call, and nothing is kept of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from runai.engine.backends.interface import Networks
from runai.engine.model import LoadedModel
from runai.schema.events import Backend


def torch_networks(model: LoadedModel) -> Networks:
    return Networks(TorchDenoiser(model), TorchDecoder(model))


@dataclass(frozen=True, eq=False)
class TorchDenoiser:
    model: LoadedModel
    backend: Backend = "torch"
    is_settled: bool = True

    def __call__(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor,
        told: Mapping[str, Any],
    ) -> torch.Tensor:
        said: torch.Tensor = self.model.unet(
            latents.to(self.model.dtype),
            timesteps.to(self.model.device),
            encoder_hidden_states=text,
            **told,
            return_dict=False,
        )[0]
        return said.float()


@dataclass(frozen=True, eq=False)
class TorchDecoder:
    model: LoadedModel
    backend: Backend = "torch"

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.model.decoding
        pixels: torch.Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return pixels.float()
