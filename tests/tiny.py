"""Tiny models of every arch with random weights, as diffusers folders.

Random weights as they come would make every picture a flat grey, and a comparison of two
flat greys cannot fail: so the networks' last layers are scaled until the UNet's output has
the spread of noise and the decoder's that of a picture. (Pure black and white would hide
differences as well.) What else a UNet is told - sizes, a noise level, a guidance scale - is
strengthened likewise, for a comparison that could not tell would be worth nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDPMScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    DPTConfig,
    DPTForDepthEstimation,
)

from runai.engine.archs import ARCHS

TOKENS = 77
WIDTH = 16  # of one text encoder
LETTERS = "!abcdefghijklmnopqrstuvwxyz0123456789,.-"
Config = dict[str, Any]


def unet_config(channels: int = 4, **more: Any) -> Config:
    return {
        "sample_size": 8,
        "in_channels": channels,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        **more,
    }


VAE: Config = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [8, 8, 8, 8],
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": 64,
    "scaling_factor": 0.18215,
}
VAE_XL: Config = {**VAE, "scaling_factor": 0.13025, "force_upcast": True}
VAE_X4: Config = {
    **VAE,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [8, 8, 8],
    "scaling_factor": 0.08333,
}
_LINEAR: Config = {"use_linear_projection": True}
_XL: Config = {
    **_LINEAR,
    "cross_attention_dim": 2 * WIDTH,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [2, 4],
    "transformer_layers_per_block": [1, 2],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
}
_REFINER: Config = {
    **_XL,
    "cross_attention_dim": WIDTH,
    "projection_class_embeddings_input_dim": 5 * 8 + WIDTH,
}
# pruned: no middle, and not as many layers on the way up as on the way down
_PRUNED: Config = {
    **_XL,
    "mid_block_type": None,
    "transformer_layers_per_block": [1, 2],
    "reverse_transformer_layers_per_block": [[2, 1], 1],
}
Texts = tuple[str, ...]
_BOTH: Texts = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class Tiny:
    """What a tiny model is made of. `texts`: the folders of its text encoders."""

    pipeline: str
    unet: Config = field(default_factory=dict)
    texts: Texts = ("text_encoder",)
    vae: Config = field(default_factory=lambda: VAE)
    prediction: str = "epsilon"
    index: Config = field(default_factory=dict)


_SD = "StableDiffusionPipeline"
_SDXL = "StableDiffusionXLPipeline"
_PAINT = "StableDiffusionInpaintPipeline"
MODELS: dict[str, Tiny] = {
    "sd1": Tiny(_SD),
    "sd1-inpaint": Tiny(_PAINT, {"in_channels": 9}),
    "sd1-edit": Tiny("StableDiffusionInstructPix2PixPipeline", {"in_channels": 8}),
    "sd1-lcm": Tiny(_SD, {"time_cond_proj_dim": 8}),
    "sd2": Tiny(_SD, _LINEAR),
    "sd2-v": Tiny(_SD, _LINEAR, prediction="v_prediction"),
    "sd2-inpaint": Tiny(_PAINT, {**_LINEAR, "in_channels": 9}),
    "sd2-depth": Tiny("StableDiffusionDepth2ImgPipeline", {**_LINEAR, "in_channels": 5}),
    "sdxl": Tiny(_SDXL, _XL, _BOTH, VAE_XL),
    "sdxl-inpaint": Tiny(
        "StableDiffusionXLInpaintPipeline", {**_XL, "in_channels": 9}, _BOTH, VAE_XL
    ),
    "sdxl-edit": Tiny(
        "StableDiffusionXLInstructPix2PixPipeline", {**_XL, "in_channels": 8}, _BOTH, VAE_XL
    ),
    "sdxl-refiner": Tiny(
        "StableDiffusionXLImg2ImgPipeline",
        _REFINER,
        ("text_encoder_2",),
        VAE_XL,
        index={"requires_aesthetics_score": True},
    ),
    "ssd-1b": Tiny(_SDXL, _PRUNED, _BOTH, VAE_XL),
    "upscale-x4": Tiny(
        "StableDiffusionUpscalePipeline",
        {**_LINEAR, "in_channels": 7, "num_class_embeds": 1000},
        vae=VAE_X4,
        prediction="v_prediction",
        index={"max_noise_level": 350},
    ),
}


# --- networks ----------------------------------------------------------------------------


@torch.no_grad()
def make_unet(config: Config) -> Any:
    unet = UNet2DConditionModel.from_config(config)
    _strengthen(unet)
    noise = torch.randn(4, config["in_channels"], 8, 8)
    text = torch.randn(4, TOKENS, config["cross_attention_dim"])
    times = torch.tensor([1.0, 300.0, 700.0, 999.0])
    said = unet(noise, times, text, **_told(unet.config)).sample
    unet.conv_out.weight *= 0.8 / said.std()
    unet.conv_out.bias -= said.mean()
    return unet


def _strengthen(unet: Any) -> None:
    """Make what is told besides the text tell: as they come, such layers hardly matter."""
    for name in ("add_embedding", "class_embedding"):
        if (layer := getattr(unet, name, None)) is not None:
            last = getattr(layer, "linear_2", layer)
            last.weight *= 3.0
    if (told := getattr(unet.time_embedding, "cond_proj", None)) is not None:
        told.weight *= 3.0


def _told(config: Any) -> Config:
    """What such a UNet is told besides time and text, for four pictures."""
    told: Config = {}
    if config.addition_embed_type == "text_time":
        sizes = (config.projection_class_embeddings_input_dim - WIDTH) // 8
        ids = torch.full((4, sizes), 64.0)
        told["added_cond_kwargs"] = {"text_embeds": torch.randn(4, WIDTH), "time_ids": ids}
    if config.num_class_embeds:
        told["class_labels"] = torch.tensor([0, 20, 100, 350])
    if config.time_cond_proj_dim:
        told["timestep_cond"] = torch.randn(4, config.time_cond_proj_dim)
    return told


@torch.no_grad()
def make_vae(config: Config) -> Any:
    vae = AutoencoderKL.from_config(config)
    said = vae.decode(torch.randn(4, 4, 8, 8) / config["scaling_factor"]).sample
    vae.decoder.conv_out.weight *= 0.4 / said.std()
    vae.decoder.conv_out.bias.zero_()
    return vae


@torch.no_grad()
def make_tiny_autoencoder(width: int = 8, blocks: Sequence[int] = (2, 1, 1, 1)) -> Any:
    """A decoder whose pictures have the spread of a picture, of unit latents."""
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=tuple(blocks),
    )
    latents, last = torch.randn(4, 4, 8, 8), tiny.decoder.layers[-1]
    said = tiny.decode(latents).sample
    last.weight *= 0.4 / (said - said.mean((0, 2, 3), keepdim=True)).std()
    last.bias -= tiny.decode(latents).sample.mean((0, 2, 3)) / 2
    return tiny.eval()


def make_text_encoder(vocab_size: int, width: int = WIDTH, *, projected: bool = False) -> Any:
    """`projected`: with the pooled and projected embedding that SDXL reads."""
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=width,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def make_depth_estimator() -> Any:
    """A DPT whose depths differ from place to place."""
    config = DPTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        image_size=32,
        patch_size=8,
    )
    return DPTForDepthEstimation(config)


# --- folders -----------------------------------------------------------------------------


def write_model(
    folder: Path,
    arch: str = "sd1",
    *,
    prediction: str | None = None,
    channels: int | None = None,
    seed: int = 0,
) -> Path:
    """A whole model as a diffusers folder, 64 × 64 pixels. `arch`: a row of MODELS.

    `prediction`, `channels`: other than the row says.
    """
    row = MODELS[arch]
    linear = _LINEAR if prediction == "v_prediction" else {}
    config = unet_config(
        **{**row.unet, **linear, **({"in_channels": channels} if channels else {})}
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vocabulary = [_write_tokenizer_of(folder, text) for text in row.texts]
        make_unet(config).save_pretrained(folder / "unet")
        make_vae(row.vae).save_pretrained(folder / "vae")
        for text, size in zip(row.texts, vocabulary, strict=True):
            projected = text == "text_encoder_2"
            make_text_encoder(size, projected=projected).save_pretrained(folder / text)
        if arch == "sd2-depth":
            make_depth_estimator().save_pretrained(folder / "depth_estimator")
            _write_depth_images(folder / "feature_extractor")
    said = {"prediction_type": prediction or row.prediction}
    PNDMScheduler.from_config({**ARCHS["sd1"].scheduler, **said}).save_pretrained(
        folder / "scheduler"
    )
    if arch == "upscale-x4":
        noising = DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="scaled_linear")
        noising.save_pretrained(folder / "low_res_scheduler")
    (folder / "model_index.json").write_text(json.dumps(dict(_index(row, folder))))
    return folder


_CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "low_res_scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "depth_estimator": ["transformers", "DPTForDepthEstimation"],
    "feature_extractor": ["transformers", "DPTImageProcessorPil"],
}
# what the pipelines of a family ask after, whether or not it is there
_OPTIONAL = {
    True: ("text_encoder", "tokenizer", "feature_extractor", "image_encoder"),
    False: ("feature_extractor", "safety_checker"),
}


def _index(row: Tiny, folder: Path) -> Iterator[tuple[str, Any]]:
    yield "_class_name", row.pipeline
    yield "_diffusers_version", "0.42.1"
    yield from ((name, [None, None]) for name in _OPTIONAL["XL" in row.pipeline])
    if "XL" not in row.pipeline:
        yield "requires_safety_checker", False
    yield from row.index.items()
    yield from ((name, cls) for name, cls in _CLASSES.items() if (folder / name).is_dir())


def _write_tokenizer_of(folder: Path, text_encoder: str) -> int:
    second = text_encoder.endswith("_2")
    name = text_encoder.replace("text_encoder", "tokenizer")
    return write_tokenizer(folder / name, padding="!" if second else "<|endoftext|>")


def write_tokenizer(folder: Path, padding: str = "<|endoftext|>") -> int:
    """A CLIP vocabulary of single letters; the number of its tokens."""
    folder.mkdir(parents=True)
    words = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "ab", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    said = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "pad_token": padding,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return len(vocabulary)


def _write_depth_images(folder: Path) -> None:
    folder.mkdir()
    said = {
        "image_processor_type": "DPTImageProcessor",
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
