"""The architectures the engine draws with: one row each, everything needed to build one.

A checkpoint in the original (CompVis) single-file form holds weights and no configuration;
these rows are what it leaves unsaid. They are facts of the published models: Stable
Diffusion v1-5 and its inpainting variant (Rombach et al. 2022), Stable Diffusion 2.1 base,
2.1 (v-prediction, Salimans & Ho 2022) and 2 inpainting. Diffusers folders bring their own
configuration and are only matched to a row's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from runai.schema.events import Version
from runai.schema.requests import Generate

Config = dict[str, Any]

_UNET: Config = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
_UNET2: Config = {
    **_UNET,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
_VAE: Config = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
_CLIP_L: Config = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "projection_dim": 768,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}
_OPEN_CLIP_H: Config = {
    **_CLIP_L,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,  # the last of 24 is not used: SD 2 reads the one before
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
_SCHEDULER: Config = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}


Beside = Literal["nothing", "mask", "picture", "depth", "low_res"]
Added = Literal["nothing", "sizes", "aesthetic", "noise_level"]


@dataclass(frozen=True)
class TextEncoding:
    """One text encoder of an arch and how it is read.

    `prefix`: its tensors' in a single file. `layer`: which hidden state conditions the UNet:
    -1 the last, through the final norm; -2 the one before, as it is. `pooled`: whether its
    pooled and projected embedding goes into the UNet too. `padding`: what fills up a prompt.
    """

    kind: Literal["clip", "open_clip"]
    config: Config
    prefix: str
    padding: str
    layer: int = -1
    pooled: bool = False


@dataclass(frozen=True)
class Defaults:
    """What a request that says nothing gets from this kind of model."""

    num_inference_steps: int = 20
    guidance_scale: float = 7.5
    sampler: str = "euler"

    def overridden_by(self, request: Generate) -> Defaults:
        """What is drawn with: the request's own, and these where it says nothing."""
        said = {row.name: getattr(request, row.name) for row in fields(self)}
        return replace(self, **{name: value for name, value in said.items() if value is not None})


@dataclass(frozen=True)
class Arch:
    """One architecture: everything the engine needs to know to build one and to draw with it.

    `size`: the side in pixels of the pictures it was trained on. `beside`: what its UNet reads
    beside the latents: mask and masked picture; the picture to edit; a depth map; the small
    picture to enlarge. `added`: what it is told besides the text: original and target sizes;
    sizes and an aesthetic score; how noisy the small picture is.
    """

    name: str
    version: Version
    size: int
    unet: Config
    texts: tuple[TextEncoding, ...]
    vae: Config = field(default_factory=lambda: dict(_VAE))
    scheduler: Config = field(default_factory=lambda: dict(_SCHEDULER))
    beside: Beside = "nothing"
    added: Added = "nothing"
    tasks: tuple[str, ...] = ("txt2img", "img2img", "inpaint", "outpaint")
    defaults: Defaults = field(default_factory=Defaults)


_V = {**_SCHEDULER, "prediction_type": "v_prediction"}
_PREFIX = "cond_stage_model."
_TEXT1 = (TextEncoding("clip", _CLIP_L, f"{_PREFIX}transformer.", "<|endoftext|>"),)
_TEXT2 = (TextEncoding("open_clip", _OPEN_CLIP_H, f"{_PREFIX}model.", "!"),)
_9: Config = {"in_channels": 9}
_ROWS = (
    Arch("sd1", "v1", 512, _UNET, _TEXT1),
    Arch("sd1-inpaint", "v1", 512, {**_UNET, **_9}, _TEXT1, beside="mask"),
    Arch("sd2", "v2", 512, _UNET2, _TEXT2),
    Arch("sd2-v", "v2", 768, {**_UNET2, "sample_size": 96}, _TEXT2, scheduler=_V),
    Arch("sd2-inpaint", "v2", 512, {**_UNET2, **_9}, _TEXT2, beside="mask"),
)
ARCHS: dict[str, Arch] = {row.name: row for row in _ROWS}
