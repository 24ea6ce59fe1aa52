"""Trained parts to a complete diffusers folder, half precision, put in place whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import vae as autoencoder
from denoiser import NOISE, Conditioned, Variant
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline
from transformers import CLIPTokenizer


def _scheduler(variant: Variant) -> PNDMScheduler | DDIMScheduler:
    """What the published models of that kind carry: PNDM for v1, DDIM for v2."""
    settings = {**NOISE, "set_alpha_to_one": False, "prediction_type": variant.prediction}
    if variant.prediction == "v_prediction":
        return DDIMScheduler(**settings)
    del settings["clip_sample"]
    return PNDMScheduler(**settings, skip_prk_steps=True)


def pipeline(work: Path, variant: Variant) -> StableDiffusionPipeline:
    """The averaged weights as a pipeline, single precision."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer", local_files_only=True)
    model = Conditioned(tokenizer, variant.linear)
    model.load_state_dict(torch.load(work / f"{variant.name}.pt")["average"])
    vae = autoencoder.load(work)
    vae.register_to_config(scaling_factor=torch.load(work / "latents.pt")["factor"])
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text.eval(),
        tokenizer=tokenizer,
        unet=model.unet.eval(),
        scheduler=_scheduler(variant),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(work: Path, variant: Variant, target: Path) -> None:
    """Write the variant's folder beside `target`, then exchange the two."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline(work, variant).to(torch.float16).save_pretrained(partial)
    shutil.copytree(work / "tokenizer", partial / "tokenizer", dirs_exist_ok=True)
    for path in partial.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.1f} MB", flush=True)
