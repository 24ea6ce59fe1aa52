"""What a denoising step costs in the engine beyond the UNet call itself.

    python benchmarks/step_cost.py [--full] [--size 256] [--steps 8] [--rounds 5]

Against a loop written by hand for one picture: UNet, guidance, diffusers' Euler scheduler, and
nothing else. Same model, dtype, size and steps, taking turns. Without --full the example model
is used; with it a Stable Diffusion 1.5 UNet with random weights (860 million parameters).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from side_by_side import compare

from runai.engine import prompts, starts, step_loop
from runai.engine.archs import ARCHS
from runai.engine.catalogue import Catalogue
from runai.engine.devices import choose
from runai.engine.loading import LoadedModel, load
from runai.schema.limits import Limits
from runai.schema.requests import TextToImage

EXAMPLE = Path(__file__).resolve().parent.parent / "models.example"


def example(full: bool) -> LoadedModel:
    model = load(Catalogue([EXAMPLE]).find("shapes"), choose(), [EXAMPLE])
    if not full:
        return model
    config = {**ARCHS["sd1"].unet, "cross_attention_dim": model.unet.config.cross_attention_dim}
    unet = UNet2DConditionModel.from_config(config).to(model.device, model.dtype).eval()
    return replace(model, unet=unet)


@torch.inference_mode()
def ours(model: LoadedModel, request: TextToImage) -> float:
    conditioning = prompts.encode(model, request.prompt, "", request.guidance_scale)
    canvas = starts.prepare(model, request, Limits())
    sample = starts.start(model, request, canvas, conditioning, 0)
    began = time.perf_counter()
    turn = 0
    while not sample.done:
        turn += 1
        step_loop.advance(step_loop.choose([sample]), turn)
    return (time.perf_counter() - began) / turn


@torch.inference_mode()
def by_hand(model: LoadedModel, request: TextToImage) -> float:
    conditioning = prompts.encode(model, request.prompt, "", request.guidance_scale)
    text: Any = torch.cat([conditioning.negative, conditioning.positive])  # type: ignore[list-item]
    scheduler = EulerDiscreteScheduler.from_config(model.scheduler)
    scheduler.set_timesteps(request.num_inference_steps)
    side = (request.height or model.size) // 8
    latents = torch.randn(1, 4, side, side) * scheduler.init_noise_sigma
    began = time.perf_counter()
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(latents, t)
        said = model.unet(torch.cat([given, given]).to(model.dtype), t, text).sample.float()
        negative, positive = said.chunk(2)
        guided = negative + request.guidance_scale * (positive - negative)
        latents = scheduler.step(guided, t, latents).prev_sample
    return (time.perf_counter() - began) / len(scheduler.timesteps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--size", type=int)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model = example(args.full)
    request = TextToImage(
        id="b",
        prompt="a red circle",
        num_inference_steps=args.steps,
        width=args.size,
        height=args.size,
    )
    size = args.size or model.size
    name = f"one step at {size}², {model.dtype}, {'SD 1.5' if args.full else 'example'}"
    compare(
        f"{name}, against a loop by hand",
        lambda: ours(model, request),
        lambda: by_hand(model, request),
        rounds=args.rounds,
    ).show()


if __name__ == "__main__":
    main()
