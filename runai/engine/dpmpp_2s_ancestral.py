"""DPM++ 2S ancestral, which diffusers does not have.

The method (sample_dpmpp_2s_ancestral of k-diffusion, after DPM-Solver++(2S) of Lu et al. 2022
with ancestral noise) evaluates the network at the same two noise levels as DPM2 ancestral: the
step's own, and the geometric mean of it and the level the noise is taken down to. Their first
halves are the same. In the second, DPM2 follows the slope at the middle; DPM++ goes in a
straight line from where the step began to the picture as it looks from the middle:

    x' = x · σ_down / σ + picture · (1 - σ_down / σ) + fresh noise · σ_up

so diffusers' DPM2 ancestral, with all it knows of schedules and timesteps, and this correction
of its result, is that method.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import KDPM2AncestralDiscreteScheduler


class DPMPP2SAncestralScheduler(KDPM2AncestralDiscreteScheduler):
    """Drop-in for a diffusers scheduler; two network calls a step."""

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        """As in diffusers, for `return_dict=False`: the next latents, the picture expected."""
        start = self.sample  # None in the first half
        after, picture = super().step(
            model_output, timestep, sample, generator=generator, return_dict=False
        )
        if start is not None:
            after = after + self._correction(start, sample, picture)
        return after, picture

    def _correction(self, start: Any, middle: Any, picture: Any) -> Any:
        """What to add to DPM2's result: the difference of the slopes, times the way down."""
        index = self.step_index - 2  # `step` has counted on; the levels are those of its start
        level, between = self.sigmas[index], self.sigmas_interpol[index]
        slopes = (start - picture) / level - (middle - picture) / between
        return slopes * (self.sigmas_down[index] - level)
