"""What decoding in tiles costs in time, and what it changes in the picture.

    python benchmarks/vae_tiling.py [--full] [--size 1024] [--rounds 5]

Against decoding the whole picture at once, taking turns; the latents are those of a drawn
picture of that size. Without --full the example model's VAE decodes them; with it a VAE of
Stable Diffusion 1's size with random weights, whose pictures are nothing to look at: there the
difference is to be read against the picture's own spread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.utils import logging
from example import example_model
from side_by_side import compare

from runai.engine import finish
from runai.engine.archs import ARCHS
from runai.engine.model import LoadedModel
from runai.testing.shapes import draw, random_scene

CELL = 128  # pixels a side of one drawn picture


def example(full: bool) -> LoadedModel:
    model = example_model()
    if not full:
        return model
    torch.manual_seed(0)
    vae = AutoencoderKL.from_config(ARCHS["sd1"].vae).to(model.device, model.dtype).eval()
    return replace(model, vae=vae)


@torch.inference_mode()
def latents_of_a_picture(model: LoadedModel, size: int) -> torch.Tensor:
    """1 × 4 × h × w: latents of drawn pictures, laid side by side."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(0, size, CELL):
        scenes = [draw(random_scene(rng), CELL) for _ in range(0, size, CELL)]
        cells = [model.images.preprocess(scene) for scene in scenes]
        pixels = torch.cat(cells, dim=3).to(model.device, model.dtype)
        rows.append(model.vae.encode(pixels).latent_dist.mode())
    return model.scaled(torch.cat(rows, dim=2)).float()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    model = example(arguments.full)
    latents = latents_of_a_picture(model, arguments.size)
    pictures: dict[bool, Any] = {}

    def decoding(tiled: bool) -> Callable[[], float]:
        def run() -> float:
            began = time.perf_counter()
            pictures[tiled] = finish.decode(model, latents, tiled=tiled)
            return time.perf_counter() - began

        return run

    name = f"decoding {arguments.size}² in tiles, {model.dtype}"
    compare(name, decoding(True), decoding(False), rounds=arguments.rounds).show()
    tiled, whole = (np.asarray(pictures[key]).astype(int) for key in (True, False))
    apart = np.abs(tiled - whole)
    print(
        f"apart, of 255: mean {apart.mean():.2f}, 99 % of them at most "
        f"{np.percentile(apart, 99):.0f}, largest {apart.max()}; spread {whole.std():.0f}"
    )


if __name__ == "__main__":
    main()
