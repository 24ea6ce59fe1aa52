"""Which LoRAs make a few-step model of another one, and how few, told by their names.

PURE. Words that tell it of a model mean other things in a LoRA's name: a lightning strikes, a
turbo is a part of a car, and hyper anything may be a style. So a LoRA is of a kind only if it is
called as that kind's published files are, and an ordinary one in all other cases:

    lcm        lcm-lora-sdv1-5, LCM_LoRA_Weights_SD15     (https://huggingface.co/latent-consistency)
    tcd        TCD-SD15-LoRA                              (https://huggingface.co/h1t)
    lightning  sdxl_lightning_4step_lora                  (https://huggingface.co/ByteDance)
    hyper      Hyper-SD15-8steps-CFG-lora                 (the same)
    turbo      sd_xl_turbo_lora_v1                        (https://huggingface.co/stabilityai)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_NAMES = {
    "lcm": re.compile(r"^lcm$|(?<![a-z])lcm[-_ ]?lora"),
    "tcd": re.compile(r"^tcd$|(?<![a-z])tcd[-_ ]sd\w*[-_ ]lora"),
    "lightning": re.compile(r"(?<![a-z])lightning[-_ ]?\d{1,2}[-_ ]?step"),
    "hyper": re.compile(r"(?<![a-z])hyper[-_ ]?sd\w*[-_ ]\d{1,2}[-_ ]?step"),
    "turbo": re.compile(r"(?<![a-z])sd[-_ ]?(xl)?[-_ ]?turbo[-_ ]?lora"),
}
_STEPS = re.compile(r"(?<!\d)([1-9]\d?)[-_ ]?steps?(?![a-z])")
_KEPT_GUIDANCE = re.compile(r"(?<![a-z])cfg(?![a-z])")
# a file that diffusers wrote is called so whatever is in it: its folder has the name then
_NAMELESS = "pytorch_lora_weights"
_SAID = ("modelspec.title", "ss_output_name")
MAX_CHARACTERS = 200


def own_name(path: Path) -> str:
    """What a LoRA's file is called, without its ending."""
    return path.parent.name if path.stem == _NAMELESS else path.stem


def kind_of(name: str) -> str | None:
    """The kind of LoRA that a name, without its ending, is that of."""
    lowered = name[:MAX_CHARACTERS].lower()
    return next((kind for kind, called in _NAMES.items() if called.search(lowered)), None)


def kind_in(metadata: Mapping[str, str]) -> str | None:
    """The same by the names that a trainer wrote into a file."""
    kinds = (kind_of(str(metadata.get(key, ""))) for key in _SAID)
    return next(filter(None, kinds), None)


def steps_in(name: str) -> int | None:
    """For how many steps it was made, if its name says so."""
    found = _STEPS.search(name.lower())
    return int(found[1]) if found else None


def keeps_guidance(name: str) -> bool:
    """Whether its name says that it is drawn with guidance all the same."""
    return _KEPT_GUIDANCE.search(name.lower()) is not None
