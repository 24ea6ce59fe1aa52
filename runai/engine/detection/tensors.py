"""What a set of named tensors is: a model, a LoRA, an embedding, a VAE, or something else.

PURE: names, shapes and metadata only. Marks are looked for in order, the first hit counts;
what is known but cannot be used here is named, so that the listing can say what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from runai.engine.archs import ARCHS
from runai.engine.detection import (
    adapters,
    checkpoints,
    few_step_loras,
    metadata,
    tiny_autoencoders,
)
from runai.engine.detection.finding import Finding, foreign

Shapes = Mapping[str, Sequence[int]]
# parts of tensor names that are only met in models of another kind around the same UNet
KINDRED = (
    ("control_model.", "a ControlNet"),
    ("time_stack", "Stable Video Diffusion"),
    ("noise_augmentor", "unCLIP"),
    ("cc_projection", "Zero123"),
    ("edm_mean", "Playground 2.5 (another noise schedule)"),
    ("edm_vpred", "CosXL (another noise schedule)"),
)
# those that only another family of models has, or a LoRA for it
FAMILIES = (
    ("double_blocks", "Flux"),
    ("single_transformer_blocks", "Flux"),
    ("double_stream_blocks", "HiDream"),
    ("joint_blocks", "Stable Diffusion 3"),
    ("context_embedder", "Stable Diffusion 3"),
    ("clip_txt_mapper", "Stable Cascade"),
    ("effnet_mapper", "Stable Cascade"),
    ("cap_embedder", "Lumina"),
    ("temporal_transformer", "AnimateDiff"),
)
# and those of things that are used beside a model
OTHERS = (
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding", "a ControlNet"),
    ("input_hint_block", "a ControlNet"),
    ("ip_adapter.", "an IP-Adapter"),
    ("image_proj.", "an IP-Adapter"),
    ("adapter.body.", "a T2I-Adapter"),
    ("conv_first.", "an ESRGAN upscaler"),
    ("\nconv8.weight", "the web UI's approximation of a VAE"),
    ("model.1.sub.", "an ESRGAN upscaler"),
    ("SelfAttention.q", "a T5 text encoder"),
    ("vision_model.", "a CLIP image encoder"),
    ("visual.transformer.", "a CLIP image encoder"),
    ("\ninput_blocks.0.0.weight", "a UNet alone"),
    ("\ndown_blocks.0.resnets.0.", "a UNet alone, of a diffusers folder"),
    ("\ntext_model.encoder.layers.0.", "a CLIP text encoder alone"),
    ("\ncond_stage_model.", "a CLIP text encoder alone"),
    ("\ntransformer.resblocks.0.", "a CLIP text encoder alone"),
    ("\nembeddings.token_embedding.", "a CLIP text encoder alone"),
)
_ENOUGH = 4_000  # characters: of another family's LoRA every other name has the mark
# tensors without content: trained for v-prediction; trained to a last step of pure noise
VELOCITY_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
VAE_PREFIXES = ("first_stage_model.", "", "vae.")
# The steps that Stability AI's own SD 2 files were trained for, as their model cards give them
_STEPS = {875000: "epsilon", 220000: "epsilon", 140000: "v_prediction", 110000: "v_prediction"}


def identify_tensors(
    shapes: Shapes, said: Mapping[str, str], beside: Mapping[str, Any] | None = None
) -> Finding:
    """What tensors of these names and shapes are. `beside`: what else lay in the file."""
    names = "\n" + "\n".join([*shapes, ""])
    if checkpoints.FIRST in shapes:
        found = _checkpoint(shapes, names, said, beside or {})
    elif adapters.is_lora(names):
        found = _lora(shapes, names, said)
    else:
        found = _small(shapes, names, said)
    return replace(
        found,
        metadata=metadata.shortened({**(beside or {}), **said}),
        trigger_words=metadata.trigger_words(said),
        distillation=found.distillation or _distillation_in(found, said),
    )


def _distillation_in(found: Finding, said: Mapping[str, str]) -> str | None:
    is_lora = found.kind == "lora"
    return few_step_loras.kind_in(said) if is_lora else metadata.distillation_in(said)


def _checkpoint(
    shapes: Shapes, names: str, said: Mapping[str, str], beside: Mapping[str, Any]
) -> Finding:
    what = _marked_as(KINDRED, names)
    if what:
        return foreign(f"it is {what}")
    found = checkpoints.arch_of(shapes, names)
    if found.kind is None:
        return found
    prediction = metadata.prediction_in(said) or _predicted(shapes, beside, found.arch)
    velocity = found.arch == "sd2" and prediction == "v_prediction"
    return replace(
        found,
        arch="sd2-v" if velocity else found.arch,
        prediction=prediction,
        zero_snr=ZERO_SNR_MARK in shapes or said.get("ss_zero_terminal_snr") == "True",
        distillation="lcm" if checkpoints.TOLD in shapes else None,
    )


def _predicted(shapes: Shapes, beside: Mapping[str, Any], arch: str) -> str | None:
    """What the UNet predicts, from what is no metadata; None where only SD 2 can be either."""
    if VELOCITY_MARK in shapes:
        return "v_prediction"
    if arch != "sd2":
        return str(ARCHS[arch].scheduler["prediction_type"])
    steps = beside.get("global_step")
    return _STEPS.get(steps) if isinstance(steps, int) else None


def _lora(shapes: Shapes, names: str, said: Mapping[str, str]) -> Finding:
    family = _marked_as(FAMILIES, names[:_ENOUGH])
    if family:
        return foreign(f"it is a LoRA for {family}")
    if "lora_controlnet" in names:
        return foreign("it is a ControlNet in the form of a LoRA")
    return Finding("lora", adapters.base_of_lora(shapes, names, said))


def _small(shapes: Shapes, names: str, said: Mapping[str, str]) -> Finding:
    for prefix in VAE_PREFIXES:
        if (shape := shapes.get(f"{prefix}decoder.conv_in.weight")) and len(shape) == 4:
            return _vae(shape[1], names, said)
    if (found := tiny_autoencoders.identify(shapes)) is not None:
        return found
    base = adapters.base_of_embedding(shapes)
    if base is not None:
        return Finding("embedding", base)
    if (vectors := shapes.get("emb_params")) is not None:
        return foreign(
            f"it is an embedding whose vectors are {list(vectors)}: no prompt holds them"
        )
    what = _marked_as(OTHERS, names) or _marked_as(FAMILIES, names)
    return foreign(f"it is {what}" if what else "it holds nothing that is known")


def _marked_as(table: Sequence[tuple[str, str]], names: str) -> str:
    """What the first mark says that occurs in the names, or nothing."""
    return next((what for mark, what in table if mark in names), "")


def _vae(channels: int, names: str, said: Mapping[str, str]) -> Finding:
    """A VAE. Those of SD 1, 2 and SDXL have the same shapes: only the trainer can say which."""
    if channels != 4:
        return foreign(f"it is a VAE of {channels} channels, of another family")
    if "encoder.conv_in.weight" not in names:
        return foreign("it is half a VAE: it has no encoder")
    return Finding("vae", adapters.base_in(said))
