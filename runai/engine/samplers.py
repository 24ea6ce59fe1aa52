"""Sampler names to diffusers' schedulers: class, and what it is told beyond the model's own.

Parity with diffusers is by construction: the scheduler of a sample is what
`Class.from_config(model's scheduler config, **arguments)` gives, as in a pipeline.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from dataclasses import dataclass, field
from typing import Any

from runai.errors import DependencyMissing


@dataclass(frozen=True)
class Choice:
    """A scheduler class of diffusers, its arguments, and the package it needs besides."""

    scheduler: str
    arguments: dict[str, Any] = field(default_factory=dict)
    needs: str | None = None


_KARRAS = {"use_karras_sigmas": True}
SCHEDULERS: dict[str, Choice] = {
    "euler": Choice("EulerDiscreteScheduler"),
    "euler_a": Choice("EulerAncestralDiscreteScheduler"),
    "lms": Choice("LMSDiscreteScheduler", needs="scipy"),
    "heun": Choice("HeunDiscreteScheduler"),
    "dpm2": Choice("KDPM2DiscreteScheduler"),
    "dpm2_karras": Choice("KDPM2DiscreteScheduler", _KARRAS),
    "dpm2_a": Choice("KDPM2AncestralDiscreteScheduler"),
    "dpm2_a_karras": Choice("KDPM2AncestralDiscreteScheduler", _KARRAS),
    "dpmpp_2m": Choice("DPMSolverMultistepScheduler"),
    "dpmpp_2m_karras": Choice("DPMSolverMultistepScheduler", _KARRAS),
    "dpmpp_2m_sde_karras": Choice(
        "DPMSolverMultistepScheduler", {**_KARRAS, "algorithm_type": "sde-dpmsolver++"}
    ),
    "ddim": Choice("DDIMScheduler"),
    "ddpm": Choice("DDPMScheduler"),
    "unipc": Choice("UniPCMultistepScheduler"),
    "deis": Choice("DEISMultistepScheduler"),
    "pndm": Choice("PNDMScheduler"),
}


def make_scheduler(sampler: str, config: dict[str, Any]) -> Any:
    """A fresh scheduler for one sample, with the model's `config`."""
    choice = SCHEDULERS[sampler]
    if choice.needs and importlib.util.find_spec(choice.needs) is None:
        raise DependencyMissing(f"The sampler {sampler} needs {choice.needs}.", field="sampler")
    diffusers = importlib.import_module("diffusers")
    return getattr(diffusers, choice.scheduler).from_config(config, **choice.arguments)


def step_arguments(scheduler: Any, *, eta: float, generator: Any) -> dict[str, Any]:
    """What this scheduler's `step` takes beyond the common: eta, a generator, both, none."""
    accepted = inspect.signature(scheduler.step).parameters
    offered = {"eta": eta, "generator": generator}
    return {name: value for name, value in offered.items() if name in accepted}
