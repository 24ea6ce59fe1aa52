"""Pictures by diffusers' own pipelines, for tests that compare ours with them."""

from __future__ import annotations

import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from drawn import Pixels, half_mask, photo

from runai.engine.samplers import SCHEDULERS, scheduler_class

STEPS = 5
SEED = 7
# family, task -> pipeline; a family are the archs that share pipelines
_PIPELINES = {
    "sd": {
        "txt2img": "StableDiffusionPipeline",
        "img2img": "StableDiffusionImg2ImgPipeline",
        "inpaint": "StableDiffusionInpaintPipeline",
        "outpaint": "StableDiffusionInpaintPipeline",
    },
    "sd-edit": {"img2img": "StableDiffusionInstructPix2PixPipeline"},
    "sd-depth": {"img2img": "StableDiffusionDepth2ImgPipeline"},
    "xl": {
        "txt2img": "StableDiffusionXLPipeline",
        "img2img": "StableDiffusionXLImg2ImgPipeline",
        "inpaint": "StableDiffusionXLInpaintPipeline",
        "outpaint": "StableDiffusionXLInpaintPipeline",
    },
    "xl-edit": {"img2img": "StableDiffusionXLInstructPix2PixPipeline"},
    "x4": {"upscale": "StableDiffusionUpscalePipeline"},
}
_FAMILIES = {"sd1-edit": "sd-edit", "sd2-depth": "sd-depth", "sdxl-edit": "xl-edit"}


def family(arch: str) -> str:
    if arch in _FAMILIES:
        return _FAMILIES[arch]
    if arch == "upscale-x4":
        return "x4"
    return "sd" if arch.startswith(("sd1", "sd2")) else "xl"


def given(arch: str, task: str) -> dict[str, Any]:
    """The pictures that the tests' requests hold for a task."""
    if task == "txt2img":
        return {}
    pictures = {"image": photo(16, 16) if task == "upscale" else photo()}
    if task in ("inpaint", "outpaint"):
        pictures["mask_image"] = half_mask()
    return pictures


class Reference:
    """diffusers' pictures for the models under a base path, with prompts as the tests' own."""

    def __init__(self, models: Path) -> None:
        self._models = models
        self._pipeline = cache(self._load)

    def draw(self, model: str, arch: str, task: str, sampler: str, **arguments: Any) -> Pixels:
        """The pixels; `model` is the folder's path below the base."""
        pipe, config = self._pipeline(model, _PIPELINES[family(arch)][task])
        seed = arguments.pop("seed", SEED)
        choice = SCHEDULERS[sampler]
        own = {"noise_sampler_seed": seed} if choice.draws_apart else {}
        # always from the model's own configuration: one that a scheduler was made with
        # carries that one's arguments into the next
        pipe.scheduler = scheduler_class(sampler).from_config(config, **choice.arguments, **own)
        said = {"prompt": "a b c", "negative_prompt": "d", **given(arch, task), **arguments}
        generator = torch.Generator("cpu").manual_seed(seed)
        with warnings.catch_warnings():
            # the depth pipeline casts to fp32, which is no casting
            warnings.filterwarnings("ignore", "In CPU autocast", UserWarning)
            drawn = pipe(**{"num_inference_steps": STEPS, "generator": generator, **said})
        return np.asarray(drawn.images[0]).astype(int)

    def _load(self, model: str, pipeline: str) -> tuple[Any, dict[str, Any]]:
        more = {"add_watermarker": False} if "XL" in pipeline else {}
        cls = getattr(diffusers, pipeline)
        loaded = cls.from_pretrained(self._models / model, local_files_only=True, **more)
        loaded.set_progress_bar_config(disable=True)
        return loaded, dict(loaded.scheduler.config)


def worst(ours: Pixels, theirs: Pixels) -> int:
    """The largest difference, of pictures that are neither flat nor blown out."""
    assert theirs.std() > 15, "a flat picture would hide differences"
    assert ((theirs > 0) & (theirs < 255)).mean() > 0.5, "so would a blown-out one"
    assert ours.shape == theirs.shape
    return int(abs(ours - theirs).max())


def note(task: str, arch: str, sampler: str, difference: int) -> None:
    """With RUNAI_PARITY_TABLE=FILE a row is written for each comparison."""
    if table := os.environ.get("RUNAI_PARITY_TABLE"):
        with Path(table).open("a") as file:
            file.write(f"{task},{arch},{sampler},{difference}\n")
