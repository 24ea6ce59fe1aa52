"""Sampler names to diffusers' schedulers: class, and what it is told beyond the model's own.

Parity with diffusers is by construction: the scheduler of a sample is what
`Class.from_config(model's scheduler config, **arguments)` gives, as in a pipeline. The
arguments say everything that makes the sampler the one of that name, also where it is the
class's default: a model's configuration may come from another sampler and hold its arguments.
What they leave open (the spacing of the timesteps without a schedule, say) is the model's.

Schedules are set as diffusers' documentation translates the web UI's:
https://huggingface.co/docs/diffusers/api/schedulers/overview#noise-schedules-and-schedule-types
It has one setting, trailing timesteps, for the web UI's "SGM Uniform" and "Simple".
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

from runai.engine.archs import Arch, Defaults
from runai.errors import DependencyMissing, InvalidField
from runai.schema.requests import GenerationRequest, TextToImage, Upscale
from runai.schema.samplers import METHODS, PARTS

Config = dict[str, Any]
# its schedulers ask for the ends of a range that they know rounded
warnings.filterwarnings("ignore", "Should have t[ab]", UserWarning, "torchsde")


@dataclass(frozen=True)
class Choice:
    """A scheduler's class, its arguments, and the packages that it needs besides diffusers.

    `draws_apart`: its noise comes from a generator of its own, to be seeded when it is made.
    """

    scheduler: str
    arguments: Config = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    module: str = "diffusers"
    draws_apart: bool = False


_SIGMAS: Config = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
_SCHEDULES: dict[str, Config] = {
    "karras": {"use_karras_sigmas": True},
    "exponential": {"timestep_spacing": "linspace", "use_exponential_sigmas": True},
    "sgm_uniform": {"timestep_spacing": "trailing"},
    "beta": {"timestep_spacing": "linspace", "use_beta_sigmas": True},
}
_NEEDS: dict[str, tuple[str, ...]] = {"beta": ("scipy",)}


def _solver(scheduler: str, order: int, kind: str, **algorithm: str) -> Choice:
    arguments = {"solver_order": order, "solver_type": kind, "lower_order_final": True}
    return Choice(scheduler, {**arguments, **algorithm})


_MULTISTEP, _SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
_METHODS: dict[str, Choice] = {
    "euler": Choice("EulerDiscreteScheduler"),
    "euler_a": Choice("EulerAncestralDiscreteScheduler"),
    "lms": Choice("LMSDiscreteScheduler", needs=("scipy",)),
    "heun": Choice("HeunDiscreteScheduler"),
    "dpm2": Choice("KDPM2DiscreteScheduler"),
    "dpm2_a": Choice("KDPM2AncestralDiscreteScheduler"),
    "dpmpp_2m": _solver(_MULTISTEP, 2, "midpoint", algorithm_type="dpmsolver++"),
    "dpmpp_2m_sde": _solver(_MULTISTEP, 2, "midpoint", algorithm_type="sde-dpmsolver++"),
    "dpmpp_3m_sde": _solver(_MULTISTEP, 3, "midpoint", algorithm_type="sde-dpmsolver++"),
    "dpmpp_2s": _solver(_SINGLESTEP, 2, "midpoint", algorithm_type="dpmsolver++"),
    "dpmpp_2s_a": Choice("DPMPP2SAncestralScheduler", module="runai.engine.dpmpp_2s_ancestral"),
    "dpmpp_sde": Choice("DPMSolverSDEScheduler", needs=("torchsde",), draws_apart=True),
    "ddim": Choice("DDIMScheduler"),
    "ddpm": Choice("DDPMScheduler"),
    "pndm": Choice("PNDMScheduler"),
    "unipc": _solver("UniPCMultistepScheduler", 2, "bh2"),
    "deis": _solver("DEISMultistepScheduler", 2, "logrho", algorithm_type="deis"),
    "lcm": Choice("LCMScheduler"),
    "tcd": Choice("TCDScheduler"),
}


def _choice(method: str, schedule: str | None) -> Choice:
    base = _METHODS[method]
    told = _SIGMAS if "karras" in METHODS[method].schedules else {}
    arguments = {**base.arguments, **told, **_SCHEDULES.get(schedule or "", {})}
    needs = tuple(sorted({*base.needs, *_NEEDS.get(schedule or "", ())}))
    return replace(base, arguments=arguments, needs=needs)


SCHEDULERS: dict[str, Choice] = {name: _choice(*parts) for name, parts in PARTS.items()}


def require(sampler: str) -> None:
    """Raise DependencyMissing where a package is needed that is not installed."""
    for package in SCHEDULERS[sampler].needs:
        if importlib.util.find_spec(package) is None:
            raise DependencyMissing(
                f"The sampler {sampler} needs the package {package}.",
                hint=f"Install it (pip install {package}), or choose another sampler.",
                field="sampler",
            )


def make_scheduler(sampler: str, config: Config, seed: int) -> Any:
    """A fresh scheduler for one sample, with the model's `config` and the sample's `seed`.

    Raises DependencyMissing; see `require`.
    """
    require(sampler)
    choice = SCHEDULERS[sampler]
    own = {"noise_sampler_seed": seed} if choice.draws_apart else {}
    return scheduler_class(sampler).from_config(config, **choice.arguments, **own)


def scheduler_class(sampler: str) -> Any:
    """diffusers' class of a sampler, or ours where diffusers has none."""
    choice = SCHEDULERS[sampler]
    return getattr(importlib.import_module(choice.module), choice.scheduler)


def steps_drawn(request: GenerationRequest, arch: Arch, choices: Defaults) -> int:
    """How many of the steps are drawn: all, or where there is a picture to start from, those
    that the strength leaves. Raises InvalidField if it leaves none.
    """
    steps = choices.num_inference_steps
    if isinstance(request, TextToImage | Upscale) or arch.beside == "picture":
        return steps
    count = int(steps * request.strength)
    if count < 1:
        raise InvalidField(
            f"A strength of {request.strength} leaves none of {steps} steps to do.",
            hint="Use a higher strength, or more steps.",
            field="strength",
        )
    return count


def set_timesteps(scheduler: Any, choices: Defaults, device: Any) -> None:
    """Prepare for the chosen number of steps; InvalidField if the sampler cannot do so many.

    The few-step samplers take their timesteps from those of the model's distillation, and some
    others would start after the model's last timestep.
    """
    steps, known = choices.num_inference_steps, scheduler.config.num_train_timesteps
    accepted = inspect.signature(scheduler.set_timesteps).parameters
    distilled = "original_inference_steps" in accepted
    if steps > (most := scheduler.config.original_inference_steps if distilled else known):
        raise _too_many(choices, f"it can do {most}")
    scheduler.set_timesteps(steps, device=device)
    if scheduler.timesteps.max() > known - 1:
        raise _too_many(choices, f"the model has {known} timesteps")


def _too_many(choices: Defaults, reason: str) -> InvalidField:
    return InvalidField(
        f"The sampler {choices.sampler} cannot do {choices.num_inference_steps} steps: {reason}.",
        hint="Ask for fewer steps, or use another sampler.",
        field="num_inference_steps",
    )


def step_arguments(scheduler: Any, *, eta: float, generator: Any) -> Config:
    """What this scheduler's `step` takes beyond the common: eta, a generator, both, none."""
    accepted = inspect.signature(scheduler.step).parameters
    offered = {"eta": eta, "generator": generator}
    return {name: value for name, value in offered.items() if name in accepted}
