"""What the step loop and `finish` ask of a backend: torch tensors in, torch tensors out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from runai.schema.events import Backend


@dataclass(frozen=True, eq=False)
class Asked:
    """What a UNet is called with.

    `latents`: rows × channels × h × w. `timesteps`: one a row. `text`: rows × tokens × width.
    `told`: what else this UNet reads, as keyword arguments of diffusers'.
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor
    told: Mapping[str, Any]

    @property
    def tensors(self) -> Iterator[torch.Tensor]:
        """All of them, in an order that is the same for all calls of a UNet."""
        yield from (self.latents, self.timesteps, self.text)
        yield from _tensors(self.told)

    def copied(self) -> Asked:
        parts = (self.latents.clone(), self.timesteps.clone(), self.text.clone())
        return Asked(*parts, _copied(self.told))


class Denoiser(Protocol):
    """A UNet. `backend`: whose answer it gives. `is_settled`: whether calls like its newest one
    will go on taking as long as that did.
    """

    @property
    def backend(self) -> Backend: ...

    @property
    def is_settled(self) -> bool: ...

    def __call__(self, asked: Asked) -> torch.Tensor:
        """What the UNet says, rows × 4 × h × w in fp32."""
        ...

    def whole(self, asked: Asked) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and what its deep part said (see `reuse`), a row for each."""
        ...

    def shallow(self, asked: Asked, deep: torch.Tensor) -> torch.Tensor:
        """What the UNet says with `deep` in the place of what its deep part would say."""
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


def _tensors(told: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    for value in told.values():
        yield from [value] if isinstance(value, torch.Tensor) else _tensors(value)


def _copied(told: Any) -> Any:
    if isinstance(told, torch.Tensor):
        return told.clone()
    return {name: _copied(value) for name, value in told.items()}
