"""LoRA files with random numbers in them, in the forms that trainers write.

The layers' names are made here from the networks' own (and `ldm`, for the original's), so that
what the engine looks up is made independently of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ldm
import torch
from safetensors.torch import save_file
from torch import nn

Tensors = dict[str, torch.Tensor]
RANK = 3


def layers(network: Any, *, attention_only: bool = False) -> dict[str, Any]:
    """The layers of a network that LoRAs add to, by name; of a text encoder without its outer
    name. The last of a UNet is left out, as trainers do.
    """
    found = {
        name.removeprefix("text_model."): module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and name != "conv_out"
    }
    wanted = ("to_q", "to_k", "to_v", "to_out.0", "_proj")
    if attention_only:
        found = {k: v for k, v in found.items() if "attn" in k and k.endswith(wanted)}
    return found


def factors(layer: Any, generator: torch.Generator, rank: int = RANK) -> tuple[Any, Any]:
    """down and up, of such a size that the sum differs clearly."""
    weight = layer.weight
    down = torch.randn(rank, *weight.shape[1:], generator=generator)
    up = torch.randn(len(weight), rank, *(1,) * (weight.ndim - 2), generator=generator)
    scale = 0.5 * weight.detach().float().std() / (rank**0.5)
    return down, up * scale


def original_names(unet: Any) -> dict[str, str]:
    """diffusers' name of each layer to the original's, with dots."""
    pairs = zip(unet.state_dict(), ldm.unet_weights(unet), strict=True)
    prefix = "model.diffusion_model."
    return {
        ours.removesuffix(".weight"): theirs.removeprefix(prefix).removesuffix(".weight")
        for ours, theirs in pairs
        if ours.endswith(".weight")
    }


def _networks(model: Any) -> Iterator[tuple[str, Any]]:
    yield "unet", model.unet
    for number, text in enumerate(model.texts, 1):
        yield f"text{number}", text.network


def _each(model: Any, seed: int, **only: bool) -> Iterator[tuple[str, str, Any, Any]]:
    generator = torch.Generator().manual_seed(seed)
    for part, network in _networks(model):
        for name, layer in layers(network, **only).items():
            yield part, name, *factors(layer, generator)


def kohya(model: Any, seed: int = 0, *, original: bool = False, alpha: float = 2.0) -> Tensors:
    """kohya's sd-scripts; `original`: the UNet's layers by CompVis' names, as for SDXL."""
    names = original_names(model.unet)
    double = len(model.texts) > 1
    prefixes = {"unet": "lora_unet_", "text2": "lora_te2_text_model_"}
    prefixes["text1"] = "lora_te1_text_model_" if double else "lora_te_text_model_"
    found: Tensors = {}
    for part, name, down, up in _each(model, seed):
        written = names[name] if original and part == "unet" else name
        if part != "unet" and name == "text_projection":
            continue
        layer = prefixes[part] + written.replace(".", "_")
        found[f"{layer}.lora_down.weight"] = down
        found[f"{layer}.lora_up.weight"] = up
        found[f"{layer}.alpha"] = torch.tensor(alpha)
    return found


_PLACES = {
    "unet": "unet.",
    "text1": "text_encoder.text_model.",
    "text2": "text_encoder_2.text_model.",
}


def peft(model: Any, seed: int = 0) -> Tensors:
    """What diffusers writes today, for attention layers."""
    found: Tensors = {}
    for part, name, down, up in _each(model, seed, attention_only=True):
        found[f"{_PLACES[part]}{name}.lora_A.weight"] = down
        found[f"{_PLACES[part]}{name}.lora_B.weight"] = up
    return found


def older(model: Any, seed: int = 0) -> Tensors:
    """What diffusers wrote in 2023: by processor in the UNet, `lora_linear_layer` in the text."""
    found: Tensors = {}
    for part, name, down, up in _each(model, seed, attention_only=True):
        if part == "unet":
            block, _, layer = name.removesuffix(".0").rpartition(".")
            place = f"unet.{block}.processor.{layer}_lora"
        else:
            place = f"{_PLACES[part]}{name}.lora_linear_layer"
        found[f"{place}.down.weight"] = down
        found[f"{place}.up.weight"] = up
    return found


def dotted(model: Any, seed: int = 0) -> Tensors:
    """ComfyUI's: PEFT's suffixes on the original's names, for the UNet alone."""
    names = original_names(model.unet)
    found: Tensors = {}
    for part, name, down, up in _each(model, seed):
        if part == "unet":
            found[f"diffusion_model.{names[name]}.lora_A.weight"] = down
            found[f"diffusion_model.{names[name]}.lora_B.weight"] = up
    return found


def with_magnitudes(tensors: Tensors) -> Tensors:
    """kohya's file as a DoRA: a magnitude for each output of each layer."""
    generator = torch.Generator().manual_seed(9)
    found = dict(tensors)
    for key, up in tensors.items():
        if key.endswith(".lora_up.weight"):
            shape = (len(up), *(1,) * (up.ndim - 1))
            name = key.replace("lora_up.weight", "dora_scale")
            found[name] = 0.5 + torch.rand(shape, generator=generator)
    return found


FORMS: dict[str, Callable[[Any], Tensors]] = {
    "kohya": kohya,
    "kohya, original names": lambda model: kohya(model, original=True),
    "peft": peft,
    "older diffusers": older,
}


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata)
    else:
        torch.save(tensors, path)
    return path
