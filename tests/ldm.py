"""Models in the single-file form: diffusers' names turned back into CompVis' own.

Written from the structure of the original code (CompVis/stable-diffusion, ldm/modules, and
Stability-AI/generative-models), so that what the loader looks up is made here independently of
it and of diffusers' converters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]
Rule = tuple[str, str]

_RESNET: tuple[Rule, ...] = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
)
_EDGES: tuple[Rule, ...] = (
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("time_embedding.cond_proj", "time_embed.cond_proj"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("class_embedding", "label_emb"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)


def _unet_name(name: str, layers: int) -> str:
    for new, old in _EDGES:
        if name.startswith(f"{new}."):
            return name.replace(new, old, 1)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}", name)
    name = name.replace("mid_block.attentions.0", "middle_block.1")
    per = layers + 1

    def down(m: re.Match[str]) -> str:
        slot = 0 if m[2] == "resnets" else 1
        return f"input_blocks.{per * int(m[1]) + int(m[3]) + 1}.{slot}"

    def up(m: re.Match[str]) -> str:
        slot = 0 if m[2] == "resnets" else 1
        return f"output_blocks.{per * int(m[1]) + int(m[3])}.{slot}"

    name = re.sub(r"down_blocks\.(\d)\.(resnets|attentions)\.(\d)", down, name)
    name = re.sub(r"up_blocks\.(\d)\.(resnets|attentions)\.(\d)", up, name)
    name = re.sub(
        r"down_blocks\.(\d)\.downsamplers\.0\.conv",
        lambda m: f"input_blocks.{per * (int(m[1]) + 1)}.0.op",
        name,
    )
    if re.search(r"\.\d+\.0\.(norm|conv|time)|middle_block\.[02]\.", name):
        for new, old in _RESNET:
            name = name.replace(new, old)
    return name


def unet_weights(unet: Any) -> Weights:
    layers = unet.config.layers_per_block
    attended = [i for i, t in enumerate(unet.config.up_block_types) if "CrossAttn" in t]

    def renamed(name: str) -> str:
        upsampler = re.match(r"up_blocks\.(\d)\.upsamplers\.0\.conv\.(.*)", name)
        if upsampler:
            block = int(upsampler[1])
            slot = 2 if block in attended else 1
            return f"output_blocks.{(layers + 1) * block + layers}.{slot}.conv.{upsampler[2]}"
        return _unet_name(name, layers)

    prefix = "model.diffusion_model."
    return {prefix + renamed(name): value for name, value in unet.state_dict().items()}


def _vae_name(name: str, blocks: int) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(
        r"up_blocks\.(\d)\.(resnets\.(\d)|upsamplers\.0)",
        lambda m: f"up.{blocks - 1 - int(m[1])}." + (f"block.{m[3]}" if m[3] else "upsample"),
        name,
    )
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    for new, old in (
        ("group_norm", "norm"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "proj_out"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ):
        name = name.replace(new, old)
    return name


def vae_weights(vae: Any) -> Weights:
    blocks = len(vae.config.block_out_channels)
    found: Weights = {}
    for name, value in vae.state_dict().items():
        new = _vae_name(name, blocks)
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", new):
            value = value[:, :, None, None]  # attention was a 1 × 1 convolution there
        found[f"first_stage_model.{new}"] = value
    return found


def clip_weights(text_encoder: Any, prefix: str = "cond_stage_model.transformer.") -> Weights:
    """OpenAI's CLIP as in version 1 checkpoints, with the position ids that lie in them too."""
    prefix += "text_model."
    found = {prefix + name: value for name, value in text_encoder.state_dict().items()}
    return {**found, f"{prefix}embeddings.position_ids": torch.arange(77).unsqueeze(0)}


_OPEN_CLIP: tuple[Rule, ...] = (
    ("embeddings.token_embedding.weight", "token_embedding.weight"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm", "ln_final"),
    ("encoder.layers.", "transformer.resblocks."),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
)


def open_clip_weights(text_encoder: Any, prefix: str = "cond_stage_model.model.") -> Weights:
    """OpenCLIP as in version 2 checkpoints and SDXL: one joint projection for q, k and v."""
    state = {n.removeprefix("text_model."): v for n, v in text_encoder.state_dict().items()}
    found: Weights = {f"{prefix}logit_scale": torch.tensor(4.6)}
    if (projection := state.pop("text_projection.weight", None)) is not None:
        found[f"{prefix}text_projection"] = projection.T
    for name, value in state.items():
        joint = re.match(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name)
        if joint:
            parts = [state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            key = f"{prefix}transformer.resblocks.{joint[1]}.attn.in_proj_{joint[2]}"
            found[key] = torch.cat(parts)
        elif not re.search(r"self_attn\.[kv]_proj", name):
            for new, old in _OPEN_CLIP:
                name = name.replace(new, old)
            found[prefix + name] = value
    return found


def write_checkpoint(
    path: Path,
    parts: Iterable[Weights],
    metadata: dict[str, str],
    dtype: torch.dtype = torch.float16,
) -> Path:
    """A .safetensors or .ckpt file of all parts, fp16 like the published ones."""
    weights = {
        name: value.detach().to(dtype).contiguous()
        for part in parts
        for name, value in part.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".ckpt":
        torch.save({"state_dict": weights, "global_step": 1}, path)
    else:
        save_file(weights, path, metadata)
    return path
