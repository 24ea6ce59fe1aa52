"""The UNets: epsilon and v-prediction, on latents encoded once and a finished text encoder.

First the epsilon variant, from nothing. The v-prediction variant, in the shape of Stable
Diffusion 2 (linear projections around attention), starts from the epsilon one's weights as they
were at iteration `BRANCH`. One caption in ten is dropped, for classifier-free guidance.

Both weigh their losses by what an error means for the picture (min-SNR, Hang et al. 2023, with a
floor as in v-prediction). A plain epsilon loss says next to nothing where noise is strong, which
is where shape and colour are decided. And latents along outlines, a quarter of them, count four
times: the rest is flat ground or flat ink.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from data import SIDE, as_tensor, scenes
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from progress import Average, Log, learning_rate, save
from text import WIDTH, new_encoder, token_ids
from torch import nn
from transformers import CLIPTokenizer

from runai.testing import shapes

BRANCH = 1277
SCENES, CAPTIONS_EACH = 12000, 4
BATCH = 32
DROPPED = 0.1
GAMMA = 5.0
MOST = 60.0  # no step's epsilon counts more than this
NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}
CONFIG: dict[str, Any] = {
    "sample_size": SIDE // 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [64, 96, 128],
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 32,
}


@dataclass(frozen=True)
class Variant:
    """One of the two models: how its UNet is built and how long it is trained."""

    name: str
    prediction: str
    linear: bool
    iterations: int
    peak_lr: float


EPSILON = Variant("epsilon", "epsilon", False, 2300, 1e-3)
V = Variant("v", "v_prediction", True, 3700, 8e-4)


@torch.no_grad()
def encode(work: Path, vae: AutoencoderKL) -> None:
    """Draw the scenes, put them into latents and words, and keep both in `latents.pt`."""
    drawn = scenes(SCENES, seed=2)
    latents = []
    for first in range(0, SCENES, 50):
        pictures = as_tensor([shapes.draw(scene, SIDE) for scene in drawn[first : first + 50]])
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(pictures).latent_dist.mean.float())
        if first % 2000 == 0:
            print(f"latents {first}/{SCENES}", flush=True)
    everything = torch.cat(latents)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer", local_files_only=True)
    rng = np.random.default_rng(3)
    captions = [shapes.caption(scene, rng) for scene in drawn for _ in range(CAPTIONS_EACH)]
    tokens = token_ids(tokenizer, captions).view(SCENES, CAPTIONS_EACH, -1)
    factor = round(1 / float(everything.std()), 5)
    save(work / "latents.pt", {"latents": everything * factor, "tokens": tokens, "factor": factor})


class Conditioned(nn.Module):
    """Tokens and noisy latents to a prediction: text encoder and UNet as one."""

    def __init__(self, tokenizer: CLIPTokenizer, linear: bool) -> None:
        super().__init__()
        self.text = new_encoder(tokenizer)
        self.unet = UNet2DConditionModel(**CONFIG, use_linear_projection=linear)

    def forward(
        self, noisy: torch.Tensor, steps: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        with torch.no_grad():
            words = self.text(tokens).last_hidden_state
        return self.unet(noisy, steps, words).sample


def linear_from_convolutions(
    weights: dict[str, torch.Tensor], model: nn.Module
) -> dict[str, torch.Tensor]:
    """1×1 convolutions as the linear layers this model has instead: the same numbers."""
    wanted = model.state_dict()
    return {key: value.reshape(wanted[key].shape) for key, value in weights.items()}


def importance(latents: torch.Tensor) -> torch.Tensor:
    """(n, 1, height, width), mean 1: where latents differ from their neighbours counts more."""
    spread = F.max_pool2d(latents, 3, 1, 1) + F.max_pool2d(-latents, 3, 1, 1)
    weights = 1 + 3 * (spread.amax(dim=1, keepdim=True) > 0.8).float()
    return weights / weights.mean()


class Trainer:
    """One variant's training: the data, the model, its average, the optimizer."""

    def __init__(self, work: Path, variant: Variant) -> None:
        self.work, self.variant = work, variant
        self.path = work / f"{variant.name}.pt"
        self.tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer", local_files_only=True)
        data = torch.load(work / "latents.pt")
        self.latents, self.tokens = data["latents"], data["tokens"]
        self.unsaid = token_ids(self.tokenizer, [""])
        self.schedule = DDPMScheduler(**NOISE, prediction_type=variant.prediction)
        self.model = Conditioned(self.tokenizer, variant.linear)
        # Plain matrix products: a fifth faster here than torch's fused attention on a CPU.
        self.model.unet.set_attn_processor(AttnProcessor())
        self.first = 0
        state = torch.load(self.path) if self.path.exists() else None
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.first = state["iteration"]
        elif variant is V:
            base = torch.load(work / "branch.pt")["average"]
            self.model.load_state_dict(linear_from_convolutions(base, self.model))
        else:
            self.model.text.load_state_dict(torch.load(work / "text.pt")["encoder"])
        self.model.text.requires_grad_(False)
        learned = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, lr=variant.peak_lr, weight_decay=0.01)
        self.average = Average(self.model)
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.weights = state["average"]

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and tokens of random scenes, some without their caption."""
        chosen = torch.randint(len(self.latents), (BATCH,))
        tokens = self.tokens[chosen, torch.randint(CAPTIONS_EACH, (BATCH,))]
        tokens[torch.rand(BATCH) < DROPPED] = self.unsaid
        return self.latents[chosen], tokens

    def loss(self) -> torch.Tensor:
        latents, tokens = self.batch()
        noise = torch.randn_like(latents)
        steps = torch.randint(1000, (BATCH,))
        noisy = self.schedule.add_noise(latents, noise, steps)
        kept = self.schedule.alphas_cumprod[steps]
        ratio = kept / (1 - kept)
        worth = (ratio + 1).clamp(max=GAMMA + 1)  # of an error in the picture itself
        if self.variant is V:
            target = self.schedule.get_velocity(latents, noise, steps)
            weight = worth / (ratio + 1)
        else:
            target, weight = noise, (worth / ratio).clamp(max=MOST)
        with torch.autocast("cpu", torch.bfloat16):
            guess = self.model(noisy, steps, tokens).float()
        error = ((guess - target).square() * importance(latents)).mean(dim=(1, 2, 3))
        return (weight * error).mean()

    def train(self) -> None:
        """To the variant's last iteration."""
        total = self.variant.iterations
        torch.manual_seed(1000 + self.first)
        log = Log(self.variant.name, total, self.first, self.work)
        for iteration in range(self.first, total):
            lr = learning_rate(iteration, total, self.variant.peak_lr, warm_up=60)
            self.optimizer.param_groups[0]["lr"] = lr
            loss = self.loss()
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.average.update(self.model, iteration)
            log.note(iteration, loss, lr)
            if self.variant is EPSILON and iteration + 1 == BRANCH:
                save(self.work / "branch.pt", {"average": self.average.weights})
            if log.is_time_to_save(iteration):
                self.save(iteration + 1)

    def save(self, iteration: int) -> None:
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        save(self.path, {**parts, "average": self.average.weights, "iteration": iteration})
