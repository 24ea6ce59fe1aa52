"""The autoencoder: 128 × 128 pictures to 16 × 16 × 4 latents and back.

Most iterations see 64 × 64 crops, the last fifth whole pictures. Left to itself it stays flat for
hundreds of iterations; so at first the latents' first three channels are pulled to the picture
made eight times smaller, which fades out after `GUIDED` iterations.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from data import crops, vae_pictures
from diffusers import AutoencoderKL
from progress import Average, Log, learning_rate, save

ITERATIONS = 3000
BATCH, CROP = 16, 64
WHOLE_BATCH = 4  # the same number of pixels
GUIDED = 600
PEAK_LR = 2e-3
KL_WEIGHT = 3e-4
CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 32, 64, 64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 128,
}


def _loss(vae: AutoencoderKL, pictures: torch.Tensor, iteration: int) -> torch.Tensor:
    posterior = vae.encode(pictures).latent_dist
    decoded = vae.decode(posterior.sample()).sample.float()
    loss = F.l1_loss(decoded, pictures) + F.mse_loss(decoded, pictures)
    loss = loss + KL_WEIGHT * posterior.kl().float().mean() / posterior.mean[0].numel()
    guidance = max(0.0, 1 - iteration / GUIDED)
    if guidance:
        small = F.avg_pool2d(pictures, 8)
        loss = loss + guidance * F.mse_loss(posterior.mean[:, :3].float(), small)
    return loss


def train(work: Path, iterations: int = ITERATIONS) -> None:
    """Train, or go on with what `work` holds; ends with `vae.pt` complete."""
    path = work / "vae.pt"
    vae = AutoencoderKL(**CONFIG)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_LR, weight_decay=0.0)
    average, first = Average(vae), 0
    if path.exists():
        state = torch.load(path)
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.weights, first = state["average"], state["iteration"]
    pool = vae_pictures(6000, seed=1)
    small = crops(pool, BATCH, CROP, seed=first)
    whole = crops(pool, WHOLE_BATCH, pool.shape[-1], seed=first)
    log = Log("vae", iterations, first, work)
    for iteration in range(first, iterations):
        lr = learning_rate(iteration, iterations, PEAK_LR, warm_up=50)
        optimizer.param_groups[0]["lr"] = lr
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(vae, next(whole if iteration > 0.8 * iterations else small), iteration)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update(vae, iteration)
        log.note(iteration, loss, lr)
        if log.is_time_to_save(iteration):
            parts = {"model": vae.state_dict(), "optimizer": optimizer.state_dict()}
            save(path, {**parts, "average": average.weights, "iteration": iteration + 1})


def load(work: Path) -> AutoencoderKL:
    """The averaged autoencoder, as far as it is trained."""
    vae = AutoencoderKL(**CONFIG)
    vae.load_state_dict(torch.load(work / "vae.pt")["average"])
    return vae.eval().requires_grad_(False)
