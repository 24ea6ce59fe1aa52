"""A tiny autoencoder of the example model's latents: none is published, so it is distilled here.

In two minutes of one core: drawn shapes are encoded by the model's VAE, and a few narrow layers
learn to make of the latents what the VAE's decoder makes of them. The same weights every time on
the same machine. It is no measure of how good TAESD is, which learnt for much longer; it shows
what a decoder costs and spoils that is a fraction of the VAE's work.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from diffusers import AutoencoderTiny

from runai.engine.model import LoadedModel
from runai.testing.shapes import draw, random_scene

NAME = "distilled"
SIDE = 128  # pixels, of the pictures that are learnt from
PICTURES, TOLD_APART = 256, 32  # of which so many are not learnt from, but compared
AT_ONCE, ITERATIONS, RATE = 4, 320, 3e-3
WIDTH, BLOCKS = 16, (3, 2, 1, 0)


def sized(width: int, blocks: tuple[int, ...]) -> AutoencoderTiny:
    """One with random weights; its encoder, which nothing here uses, as small as can be."""
    return AutoencoderTiny(
        encoder_block_out_channels=(1,) * 4,
        num_encoder_blocks=(1,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_decoder_blocks=blocks,
    )


@contextmanager
def distilled(model: LoadedModel) -> Iterator[Path]:
    """A base path with one of the model's latents in it, by the name NAME, and gone afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.process_time()
    latents, wanted = examples(model)
    tiny, apart = learnt(latents, wanted)
    torch.set_num_threads(threads)
    took = time.process_time() - began
    print(
        f"a tiny autoencoder was distilled in {took:.0f} s of one core; of pictures "
        f"that it did not learn from its pixels are {apart:.1f} of 255 from the VAE's"
    )
    with TemporaryDirectory() as folder:
        tiny.save_pretrained(Path(folder) / "VAE" / NAME)
        yield Path(folder)


@torch.inference_mode()
def examples(model: LoadedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of drawn pictures, as the UNet has them, and what the VAE decodes of them."""
    rng = np.random.default_rng(0)
    latents, pixels = [], []
    for _ in range(0, PICTURES, 16):
        drawn = [model.images.preprocess(draw(random_scene(rng), SIDE)) for _ in range(16)]
        given = torch.cat(drawn).to(model.device, model.dtype)
        encoded = model.vae.encode(given).latent_dist.mode()
        latents.append(model.scaled(encoded).float().cpu())
        pixels.append(model.vae.decode(encoded).sample.float().clamp(-1, 1).cpu())
    return torch.cat(latents), torch.cat(pixels)


@torch.inference_mode(False)
def learnt(latents: torch.Tensor, wanted: torch.Tensor) -> tuple[AutoencoderTiny, float]:
    """The decoder, and how far it is from the VAE: the mean of a pixel's value, of 255."""
    latents, wanted = latents.clone(), wanted.clone()
    torch.manual_seed(0)
    tiny = sized(WIDTH, BLOCKS)
    optimizer = torch.optim.Adam(tiny.decoder.parameters(), RATE)
    for i in range(ITERATIONS):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, 1.5 * (1 - i / ITERATIONS))
        chosen = torch.randperm(PICTURES - TOLD_APART)[:AT_ONCE]
        loss = (tiny.decode(latents[chosen]).sample - wanted[chosen]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        said = tiny.decode(latents[-TOLD_APART:]).sample.clamp(-1, 1)
    return tiny, float((said - wanted[-TOLD_APART:]).abs().mean() * 127.5)
