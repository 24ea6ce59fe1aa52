"""diffusers' own networks, called as they are: the backend that can everything.

A model's parts may move, change their dtype for a call or be hooked: so they are looked up at
every call, and nothing is kept of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from runai.engine import reuse
from runai.engine.backends.interface import Asked, Networks
from runai.engine.model import LoadedModel
from runai.schema.events import Backend


def torch_networks(model: LoadedModel) -> Networks:
    return Networks(TorchDenoiser(model), TorchDecoder(model))


@dataclass(frozen=True, eq=False)
class TorchDenoiser:
    model: LoadedModel
    backend: Backend = "torch"
    is_settled: bool = True

    def __call__(self, asked: Asked) -> torch.Tensor:
        said: torch.Tensor = self.model.unet(
            asked.latents.to(self.model.dtype),
            asked.timesteps.to(self.model.device),
            encoder_hidden_states=asked.text,
            **asked.told,
            return_dict=False,
        )[0]
        return said.float()

    def whole(self, asked: Asked) -> tuple[torch.Tensor, torch.Tensor]:
        with reuse.captured(self.model.unet) as deep:
            said = self(asked)
        return said, deep[0]

    def shallow(self, asked: Asked, deep: torch.Tensor) -> torch.Tensor:
        with reuse.reused(self.model.unet, deep):
            return self(asked)


@dataclass(frozen=True, eq=False)
class TorchDecoder:
    model: LoadedModel
    backend: Backend = "torch"

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.model.decoding
        pixels: torch.Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return pixels.float()
