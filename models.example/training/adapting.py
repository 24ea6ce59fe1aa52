"""What the LoRA and the embedding share: the finished v1 model, frozen, and its loss.

Both learn from pictures drawn here and the folder `models.example/v1/shapes` alone; nothing that
training the model itself left behind is needed. The loss is the one the model was trained with
(see `denoiser`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from data import as_tensor
from denoiser import GAMMA, MOST, NOISE, importance
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer


class Base:
    """The model that is added to. Nothing of it learns."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        self.text = CLIPTextModel.from_pretrained(
            folder / "text_encoder", local_files_only=True, dtype=torch.float32
        )
        self.unet = UNet2DConditionModel.from_pretrained(
            folder / "unet", local_files_only=True, torch_dtype=torch.float32
        )
        self.vae = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)
        self.unet.set_attn_processor(AttnProcessor())  # faster here than torch's fused attention
        for network in (self.text, self.unet, self.vae):
            network.eval().requires_grad_(False)
        self.schedule = DDPMScheduler(**NOISE, prediction_type="epsilon")

    @torch.no_grad()
    def latents(self, pictures: list[Image.Image]) -> torch.Tensor:
        """(n, 4, 16, 16), scaled as the UNet expects them."""
        coded = [
            self.vae.encode(as_tensor(pictures[i : i + 50])).latent_dist.mean
            for i in range(0, len(pictures), 50)
        ]
        return torch.cat(coded) * self.vae.config.scaling_factor

    def loss(self, latents: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Min-SNR-weighted error of the predicted noise, words (n, tokens, width) given."""
        noise = torch.randn_like(latents)
        steps = torch.randint(1000, (len(latents),))
        noisy = self.schedule.add_noise(latents, noise, steps)
        kept = self.schedule.alphas_cumprod[steps]
        ratio = kept / (1 - kept)
        weight = ((ratio + 1).clamp(max=GAMMA + 1) / ratio).clamp(max=MOST)
        with torch.autocast("cpu", torch.bfloat16):
            guess = self.unet(noisy, steps, words).sample.float()
        error = ((guess - noise).square() * importance(latents)).mean(dim=(1, 2, 3))
        return (weight * error).mean()
