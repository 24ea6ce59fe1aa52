"""How a sample is guided: which rows it puts into a UNet call, and what is made of the answers.

A sample takes one row of the call without guidance, two with the classifier-free kind (Ho &
Salimans 2022), three when a picture is edited by words (Brooks et al. 2022). Pure arithmetic:
what the rows hold is put together by `step_loop`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from runai.engine.model import LoadedModel


@dataclass(frozen=True)
class Half:
    """What one row reads: the positive or the negative text, and the picture to edit or none."""

    positive: bool
    picture: bool = True


@dataclass(frozen=True)
class Scales:
    """How strongly text and picture guide; `picture` only matters to editing."""

    text: float
    picture: float = 1.0


Said = Sequence[torch.Tensor]


def _alone(said: Said, scales: Scales) -> torch.Tensor:
    return said[0]


def _by_text(said: Said, scales: Scales) -> torch.Tensor:
    """Ho & Salimans 2022, eq. 6 with w + 1 for the scale."""
    negative, positive = said
    return negative + scales.text * (positive - negative)


def _by_text_and_picture(said: Said, scales: Scales) -> torch.Tensor:
    """Brooks et al. 2022, eq. 3."""
    both, picture, neither = said
    return neither + scales.text * (both - picture) + scales.picture * (picture - neither)


@dataclass(frozen=True)
class Guidance:
    """One kind: its rows, and how what the UNet said of them becomes one prediction."""

    rows: tuple[Half, ...]
    combine: Callable[[Said, Scales], torch.Tensor]


NONE = Guidance((Half(True),), _alone)
TEXT = Guidance((Half(False), Half(True)), _by_text)
EDIT = Guidance((Half(True), Half(False), Half(False, picture=False)), _by_text_and_picture)


def kind_for(model: LoadedModel, guided: bool) -> Guidance:
    """The kind for a model; `guided`: whether there is a negative text to guide away from."""
    if not guided or model.guidance_width is not None:
        return NONE
    return EDIT if model.arch.beside == "picture" else TEXT


def embedding(scale: float, width: int) -> torch.Tensor:
    """How a guidance-distilled UNet is told its guidance: 1 × width, fp32.

    Sines, then cosines, of w = 1000 (scale - 1) at frequencies from 1 down to 1/10000 (Meng et
    al. 2023, appendix; LCM, Luo et al. 2023): the form that LCM checkpoints are trained on.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32) / (half - 1)
    angles = 1000.0 * (scale - 1) * torch.exp(-torch.log(torch.tensor(10000.0)) * steps)
    waves = torch.cat([angles.sin(), angles.cos()])
    return torch.nn.functional.pad(waves, (0, width % 2))[None]
