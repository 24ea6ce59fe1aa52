"""What a denoising step costs in the engine beyond the UNet call itself.

    python benchmarks/step_cost.py [--arch sd1|sdxl] [--size 256] [--steps 8] [--rounds 5]

Against a loop written by hand for one picture: UNet, guidance, diffusers' Euler scheduler, and
nothing else. Same UNet, dtype, size, text and steps, taking turns. Without --arch the example
model's UNet is used, else one of full size with random weights: Stable Diffusion 1.5 has 860
million parameters, SDXL 2.6 billion (5.2 GB in bf16).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from example import example_model
from side_by_side import compare

from runai.engine import canvas, starts, step_loop
from runai.engine.archs import ARCHS
from runai.engine.model import LoadedModel
from runai.engine.prompts import Conditioning, Phase, Text
from runai.schema.limits import Limits
from runai.schema.requests import TextToImage

POOLED = 1280  # width of SDXL's pooled embedding


def model_with(arch: str | None) -> LoadedModel:
    """The example model, or one with an arch's UNet of full size in its place."""
    model = example_model()
    if arch is None:
        return model
    torch.set_default_dtype(model.dtype)  # so that it is never in memory as fp32
    unet = UNet2DConditionModel.from_config(ARCHS[arch].unet).to(model.device).eval()
    torch.set_default_dtype(torch.float32)
    return replace(model, arch=ARCHS[arch], unet=unet)


def conditioning(model: LoadedModel) -> Conditioning:
    """Random text, a negative and a positive one."""
    width = model.unet.config.cross_attention_dim
    texts = (
        Text(torch.randn(1, 77, width).to(model.device, model.dtype), pooled)
        for pooled in torch.randn(2, 1, POOLED).to(model.device, model.dtype)
    )
    positive, negative = ((Phase(0, text),) for text in texts)
    return Conditioning(positive, negative)


@torch.inference_mode()
def ours(model: LoadedModel, request: TextToImage, text: Conditioning) -> float:
    choices = model.defaults.overridden_by(request)
    given = canvas.read(request, model.arch, Limits())
    prepared = canvas.prepare(model, request, given, Limits())
    sample = starts.start(model, request, choices, prepared, text, 0)
    began = time.perf_counter()
    turn = 0
    while not sample.done:
        turn += 1
        step_loop.advance(step_loop.choose([sample]), turn)
    return (time.perf_counter() - began) / turn


@torch.inference_mode()
def by_hand(model: LoadedModel, request: TextToImage, text: Conditioning) -> float:
    halves = [half for half in text.at(0) if half]
    embeddings = torch.cat([half.embedding for half in halves])
    side = request.height or model.size
    added: dict[str, Any] = {}
    if model.arch.added == "sizes":
        pooled = torch.cat([half.pooled for half in halves if half.pooled is not None])
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * 2, device=model.device)
        added = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    scheduler = EulerDiscreteScheduler.from_config(model.scheduler)
    scheduler.set_timesteps(request.num_inference_steps, device=model.device)
    noise = torch.randn(1, 4, side // 8, side // 8, device=model.device)
    latents = noise * scheduler.init_noise_sigma
    began = time.perf_counter()
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(latents, t)
        rows = torch.cat([given, given]).to(model.dtype)
        said = model.unet(rows, t, embeddings, **added).sample.float()
        negative, positive = said.chunk(2)
        guided = negative + 7.5 * (positive - negative)
        latents = scheduler.step(guided, t, latents).prev_sample
    return (time.perf_counter() - began) / len(scheduler.timesteps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=("sd1", "sdxl"))
    parser.add_argument("--size", type=int)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model = model_with(args.arch)
    request = TextToImage(
        id="b",
        num_inference_steps=args.steps,
        guidance_scale=7.5,
        sampler="euler",
        width=args.size,
        height=args.size,
    )
    text = conditioning(model)
    name = f"one step at {args.size or model.size}², {model.dtype}, {args.arch or 'example'}"
    compare(
        f"{name}, against a loop by hand",
        lambda: ours(model, request, text),
        lambda: by_hand(model, request, text),
        rounds=args.rounds,
    ).show()


if __name__ == "__main__":
    main()
