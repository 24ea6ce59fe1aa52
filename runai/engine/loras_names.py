"""The many spellings of a layer's name in LoRA files, and the layer of a model each one means.

Trainers name layers after whatever code they train: diffusers' UNet (`down_blocks.0.…`) or the
original one (`input_blocks.1.…`, the rule for SDXL), with dots or underscores, with or without
a prefix, old forms by the attention processor. So names are compared flat: what is no letter
or digit becomes an underscore, and every layer of the model stands in the index under each
spelling it has. A name that is not in the index means no layer of this model.

PURE: names in, names out. Not here: what a file adds to a layer (`loras_additions`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from runai.engine.loading import names as layouts

# flat prefix -> the part of the model: "unet", or "text1", "text2" for the text encoders
_PARTS = (
    ("lora_unet_", "unet"),
    ("lora_te1_", "text1"),
    ("lora_te2_", "text2"),
    ("lora_te_", "text1"),
    ("text_encoder_2_", "text2"),
    ("text_encoder_", "text1"),
    ("model_diffusion_model_", "unet"),
    ("diffusion_model_", "unet"),
    ("lycoris_", "unet"),
    ("unet_", "unet"),
    ("", "unet"),  # the oldest files hold a UNet's layers only and do not say so
)
_WRAPPER = "base_model_model_"  # PEFT's, around any model


def flat(name: str) -> str:
    """A name with nothing but letters, digits and underscores."""
    return re.sub(r"\W", "_", name)


def part_and_layer(name: str) -> tuple[str, str]:
    """The part of the model that a file's name means, and the layer's flat name within it."""
    plain = flat(name).removeprefix(_WRAPPER)
    prefix, part = next(row for row in _PARTS if plain.startswith(row[0]))
    layer = plain.removeprefix(prefix).replace("_processor_", "_")
    return part, layer.removeprefix("text_model_") if part != "unet" else layer


def unet_spellings(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """Every flat spelling of a UNet's layers, to diffusers' names, which are given."""
    original = layouts.unet(config, prefix="")
    found: dict[str, str] = {}
    for name in names:
        found[flat(original(f"{name}.weight").name.removesuffix(".weight"))] = name
        # the oldest form, by the attention processor, has no number there
        found[flat(name.removesuffix(".0") if name.endswith(".to_out.0") else name)] = name
        found[flat(name)] = name
    return found


def text_spellings(names: Iterable[str]) -> dict[str, str]:
    """Every flat spelling of a text encoder's layers, to the names that are given."""
    found: dict[str, str] = {}
    for name in names:
        plain = flat(name.removeprefix("text_model."))
        found[plain] = name
        # the oldest form calls the projections as the UNet's are called
        found[re.sub(r"self_attn_(q|k|v|out)_proj$", r"self_attn_to_\1", plain)] = name
    return found
