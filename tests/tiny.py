"""Tiny Stable Diffusion models with random weights, as diffusers folders.

Random weights as they come would make every picture a flat grey, and a comparison of two
flat greys cannot fail: so the networks' last layers are scaled until the UNet's output has
the spread of noise and the decoder's that of a picture. (Pure black and white would hide
differences as well.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from runai.engine.archs import ARCHS

TOKENS = 77
LETTERS = "!abcdefghijklmnopqrstuvwxyz0123456789,.-"


def write_tokenizer(folder: Path) -> int:
    """A CLIP vocabulary of single letters; the number of its tokens."""
    folder.mkdir(parents=True)
    words = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "ab", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS})
    )
    return len(vocabulary)


def unet_config(channels: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "sample_size": 8,
        "in_channels": channels,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        **more,
    }


VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [8, 8, 8, 8],
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": 64,
    "scaling_factor": 0.18215,
}


@torch.no_grad()
def make_unet(config: dict[str, Any]) -> Any:
    unet = UNet2DConditionModel.from_config(config)
    noise = torch.randn(4, config["in_channels"], 8, 8)
    text = torch.randn(4, TOKENS, config["cross_attention_dim"])
    said = unet(noise, torch.tensor([1.0, 300.0, 700.0, 999.0]), text).sample
    unet.conv_out.weight *= 0.8 / said.std()
    unet.conv_out.bias -= said.mean()
    return unet


@torch.no_grad()
def make_vae(config: dict[str, Any]) -> Any:
    vae = AutoencoderKL.from_config(config)
    said = vae.decode(torch.randn(4, 4, 8, 8) / config["scaling_factor"]).sample
    vae.decoder.conv_out.weight *= 0.4 / said.std()
    vae.decoder.conv_out.bias.zero_()
    return vae


def make_text_encoder(vocab_size: int, width: int = 16) -> Any:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=vocab_size - 2,
            eos_token_id=vocab_size - 1,
        )
    )


def write_model(
    folder: Path, *, prediction: str = "epsilon", channels: int = 4, seed: int = 0
) -> Path:
    """A whole model as a diffusers folder, 64 × 64 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size = write_tokenizer(folder / "tokenizer")
        linear = {"use_linear_projection": True} if prediction == "v_prediction" else {}
        make_unet(unet_config(channels, **linear)).save_pretrained(folder / "unet")
        make_vae(VAE).save_pretrained(folder / "vae")
        make_text_encoder(size).save_pretrained(folder / "text_encoder")
    scheduler = {**ARCHS["sd1"].scheduler, "prediction_type": prediction}
    PNDMScheduler.from_config(scheduler).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
