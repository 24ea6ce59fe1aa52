"""Where a network's tensor lies in a file: diffusers' name for it to the name stored there.

PURE: names only. One direction is enough, because it is the networks that say what they want:
for each of their tensors the file is asked for one name. What the file holds besides (averages
of the training, position ids, the loss's networks) is never asked for.

A *layout* is a function from a tensor's name in the network to a `Source`. The original's
layouts are facts of its code: CompVis/stable-diffusion and Stability-AI/generative-models
(ldm/modules/diffusionmodules/openaimodel.py, .../model.py) and mlfoundations/open_clip
(transformer.py), where q, k and v are one joint projection and the text projection is a matrix
that is multiplied from the other side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Source:
    """A tensor in a file. `third`: which third of its rows. `transposed`: with columns for rows."""

    name: str
    third: int | None = None
    transposed: bool = False


Layout = Callable[[str], Source]
Rules = Iterable[tuple[str, str]]


def renamed(name: str, rules: Rules) -> str:
    for ours, theirs in rules:
        name = name.replace(ours, theirs)
    return name


def plain(prefix: str = "") -> Layout:
    """Stored under the network's own names."""
    return lambda name: Source(prefix + name)


# --- the UNet ----------------------------------------------------------------------------

_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
)
_UNET_EDGES = (
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("time_embedding.cond_proj.", "time_embed.cond_proj."),
    ("add_embedding.linear_1.", "label_emb.0.0."),
    ("add_embedding.linear_2.", "label_emb.0.2."),
    ("class_embedding.weight", "label_emb.weight"),
    ("conv_in.", "input_blocks.0.0."),
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
)
_UNET_BLOCK = re.compile(
    r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)"
)


def unet(config: Mapping[str, Any], prefix: str = "model.diffusion_model.") -> Layout:
    """The original UNet's blocks: one row of them going in, one in the middle, one going out."""
    layers: int = config["layers_per_block"]
    attended = ["CrossAttn" in kind for kind in config["up_block_types"]]

    def block(way: str, level: int, part: str, index: int) -> str:
        first = (layers + 1) * level
        if way == "mid":
            return f"middle_block.{2 * index}" if part == "resnets" else "middle_block.1"
        if part == "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.op"
        if part == "upsamplers":
            return f"output_blocks.{first + layers}.{2 if attended[level] else 1}"
        slot = 0 if part == "resnets" else 1
        return (
            f"input_blocks.{first + index + 1}.{slot}"
            if way == "down"
            else (f"output_blocks.{first + index}.{slot}")
        )

    def layout(name: str) -> Source:
        found = _UNET_BLOCK.fullmatch(name)
        if found is None:
            return Source(prefix + _edge(name))
        way, level, part, index, rest = found.groups()
        if part == "resnets":
            rest = renamed(rest, _RESNET)
        if part == "downsamplers":
            rest = rest.removeprefix("conv.")
        return Source(f"{prefix}{block(way, int(level or 0), part, int(index))}.{rest}")

    return layout


def _edge(name: str) -> str:
    for ours, theirs in _UNET_EDGES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


# --- the VAE -----------------------------------------------------------------------------

_VAE_RULES = (
    ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
    ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
    ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
    ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
    ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    (".resnets.", ".block."),
    ("downsamplers.0", "downsample"),
    ("upsamplers.0", "upsample"),
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
)
# diffusers' own names before its version 0.12
_OLD_ATTENTION = (
    ("attentions.0.to_q", "attentions.0.query"),
    ("attentions.0.to_k", "attentions.0.key"),
    ("attentions.0.to_v", "attentions.0.value"),
    ("attentions.0.to_out.0", "attentions.0.proj_attn"),
)


def vae(config: Mapping[str, Any], prefix: str = "first_stage_model.") -> Layout:
    """The original autoencoder, whose decoder counts its levels from the picture inwards."""
    last = len(config["block_out_channels"]) - 1

    def layout(name: str) -> Source:
        name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
        name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{last - int(m[1])}", name)
        return Source(prefix + renamed(name, _VAE_RULES))

    return layout


def old_vae(prefix: str = "") -> Layout:
    return lambda name: Source(prefix + renamed(name, _OLD_ATTENTION))


# --- text encoders -----------------------------------------------------------------------

_OPEN_CLIP = (
    ("embeddings.token_embedding.weight", "token_embedding.weight"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm", "ln_final"),
    ("encoder.layers.", "transformer.resblocks."),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn", "attn"),
)
_JOINT = re.compile(r"(.*\.attn)\.([qkv])_proj\.(weight|bias)")


def clip(prefix: str) -> Layout:
    """A text encoder under transformers' names; those of its body start with `prefix`."""

    def layout(name: str) -> Source:
        if name.startswith("text_projection."):
            return Source(f"{prefix.removesuffix('text_model.')}{name}")
        return Source(prefix + name.removeprefix("text_model."))

    return layout


def open_clip(prefix: str) -> Layout:
    """OpenCLIP's text encoder."""

    def layout(name: str) -> Source:
        if name == "text_projection.weight":
            return Source(f"{prefix}text_projection", transposed=True)
        name = renamed(name.removeprefix("text_model."), _OPEN_CLIP)
        joint = _JOINT.fullmatch(name)
        if joint is None:
            return Source(prefix + name)
        attention, which, kind = joint.groups()
        return Source(f"{prefix}{attention}.in_proj_{kind}", third="qkv".index(which))

    return layout


# --- what to try -------------------------------------------------------------------------


def unet_layouts(config: Mapping[str, Any]) -> Sequence[Layout]:
    """The ways in which a UNet is met in single files and folders."""
    return (
        unet(config),
        plain(),
        unet(config, prefix=""),
        plain("model.diffusion_model."),
        plain("unet."),
    )


def vae_layouts(config: Mapping[str, Any]) -> Sequence[Layout]:
    """The ways in which a VAE is met: in a checkpoint, alone, in a folder."""
    prefixes = ("first_stage_model.", "", "vae.")
    kinds: tuple[Callable[[str], Layout], ...] = (lambda p: vae(config, p), plain, old_vae)
    return [kind(prefix) for prefix in prefixes for kind in kinds]


def text_layouts(kind: str, prefix: str) -> Sequence[Layout]:
    """The ways in which a text encoder is met; with and without transformers' outer name."""
    names = (clip(f"{prefix}text_model."), clip(prefix))
    return (open_clip(prefix), *names) if kind == "open_clip" else names
