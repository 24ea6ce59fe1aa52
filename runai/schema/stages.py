"""The stages of drawing a request, and how long something took: what engines tell jobs.

A stage belongs to the requests it was done for: one step of a batch is spent for all of them.
On a GPU, work goes on after the call that began it: a stage's seconds then include waiting for
what went before. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stage = Literal["queue", "load", "encode", "step", "decode", "png"]
MEANINGS: dict[Stage, str] = {
    "queue": "waiting to be taken up",
    "load": "reading weights of a model or VAE",
    "encode": "prompts, pictures and LoRAs made ready",
    "step": "one denoising step of one batch",
    "decode": "latents to a picture, checked and marked",
    "png": "a request's pictures written as PNG, beside the next ones' steps",
}


@dataclass(frozen=True)
class Spent:
    """So many seconds for the requests of these keys (see `runai.jobs.engine`)."""

    stage: Stage
    seconds: float
    keys: tuple[str, ...]
