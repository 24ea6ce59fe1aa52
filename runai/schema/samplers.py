"""The public names of samplers, and the names others use for them.

A *sampler* is what a user picks; the diffusers class behind it (a *scheduler*) is the
engine's business. A name is that of a method, alone or with a *schedule*: how the noise levels
of the steps are spread. `METHODS` says which methods there are and which schedules each can
follow; everything else here is made from it. Knows nothing of what is installed.

Spellings of the web UI (https://github.com/AUTOMATIC1111/stable-diffusion-webui,
modules/sd_samplers_kdiffusion.py and sd_schedulers.py), of diffusers' classes, of the Krita
plugin and its successor are understood.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from runai.errors import InvalidField

# schedule -> how others write it behind a method's name
SCHEDULES: dict[str, tuple[str, ...]] = {
    "karras": ("Karras", "ka"),
    "exponential": ("Exponential",),
    # the web UI's "Simple" is the same to within one of a model's 1000 timesteps
    "sgm_uniform": ("SGM Uniform", "Simple"),
    "beta": ("Beta",),
}
EVENLY = ("Uniform", "Normal")  # how others write a method without a schedule
ALL = tuple(SCHEDULES)
SPACED = ("sgm_uniform",)


@dataclass(frozen=True)
class Method:
    """A sampling method: its other spellings, and the schedules that it can follow."""

    spellings: tuple[str, ...]
    schedules: tuple[str, ...] = ()


METHODS: dict[str, Method] = {
    "euler": Method(("Euler", "k_euler", "EulerDiscreteScheduler"), ALL),
    "euler_a": Method(
        (
            "Euler a",
            "Euler ancestral",
            "k_euler_a",
            "k_euler_ancestral",
            "EulerAncestralDiscreteScheduler",
        ),
        SPACED,
    ),
    "lms": Method(("LMS", "k_lms", "LMSDiscreteScheduler"), ALL),
    "heun": Method(("Heun", "k_heun", "HeunDiscreteScheduler"), ALL),
    "dpm2": Method(("DPM2", "k_dpm_2", "KDPM2DiscreteScheduler"), ALL),
    "dpm2_a": Method(
        ("DPM2 a", "DPM2 ancestral", "k_dpm_2_a", "KDPM2AncestralDiscreteScheduler"), ALL
    ),
    "dpmpp_2m": Method(("DPM++ 2M", "DPM", "k_dpmpp_2m", "DPMSolverMultistepScheduler"), ALL),
    "dpmpp_2m_sde": Method(("DPM++ 2M SDE", "k_dpmpp_2m_sde"), ALL),
    "dpmpp_3m_sde": Method(("DPM++ 3M SDE", "k_dpmpp_3m_sde"), ALL),
    "dpmpp_2s": Method(
        ("DPM++ 2S", "DPMSolverSinglestepScheduler"), ("karras", "exponential", "beta")
    ),
    "dpmpp_2s_a": Method(("DPM++ 2S a", "DPM++ 2S ancestral", "k_dpmpp_2s_a"), ALL),
    "dpmpp_sde": Method(("DPM++ SDE", "k_dpmpp_sde", "DPMSolverSDEScheduler"), ALL),
    "ddim": Method(("DDIM", "DDIMScheduler"), SPACED),
    "ddpm": Method(("DDPM", "DDPMScheduler"), SPACED),
    "pndm": Method(("PNDM", "PLMS", "PNDMScheduler"), SPACED),
    "unipc": Method(("UniPC", "UniPCMultistepScheduler"), ALL),
    "deis": Method(("DEIS", "DEISMultistepScheduler"), ALL),
    "lcm": Method(("LCM", "LCMScheduler")),
    "tcd": Method(("TCD", "TCDScheduler")),
}


def canonical(method: str, schedule: str | None) -> str:
    """The name of a method that follows a schedule; None: the model's own."""
    return f"{method}_{schedule}" if schedule else method


# every canonical name -> method, and schedule or None
PARTS: dict[str, tuple[str, str | None]] = {
    canonical(name, schedule): (name, schedule)
    for name, method in METHODS.items()
    for schedule in (None, *method.schedules)
}


def _spellings(name: str) -> tuple[str, ...]:
    method, schedule = PARTS[name]
    words = SCHEDULES[schedule] if schedule else ("", *EVENLY)
    written = (method, *METHODS[method].spellings)
    return tuple(f"{spelling} {word}".strip() for word in words for spelling in written)


# canonical name -> other spellings (compared without case, spaces, '-', '_' and '.')
SAMPLERS: dict[str, tuple[str, ...]] = {name: _spellings(name) for name in PARTS}


def _squash(name: str) -> str:
    return name.lower().replace("+", "p").translate({ord(c): None for c in " -_."})


_BY_SQUASHED = {
    _squash(spelling): name for name, others in SAMPLERS.items() for spelling in (name, *others)
}


def canonical_sampler(name: str) -> str:
    """The canonical name of a sampler in any known spelling; InvalidField if there is none."""
    found = _BY_SQUASHED.get(_squash(name))
    if found is None:
        raise InvalidField(f"There is no sampler {name!r}.", hint=_advice(name), field="sampler")
    return found


def _advice(name: str) -> str:
    """What was probably meant; where nothing is near, what there is."""
    meant = list(dict.fromkeys(_nearest(name)))[:4]
    if meant:
        return f"Did you mean {', '.join(meant)}?"
    return (
        f"Use one of {', '.join(METHODS)}, "
        f"or one with a schedule ({', '.join(SCHEDULES)}) behind it, such as dpmpp_2m_karras."
    )


def _nearest(name: str) -> Iterator[str]:
    for spelling in difflib.get_close_matches(_squash(name), _BY_SQUASHED, n=12, cutoff=0.7):
        yield _BY_SQUASHED[spelling]
