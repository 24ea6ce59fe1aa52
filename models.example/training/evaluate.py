"""Ask the example models for what they never saw, and look whether they drew it.

`python models.example/training/evaluate.py` loads the folders with diffusers' own pipelines,
offline, draws the 64 held-out combinations with several seeds, and recognises the pictures
(`runai.testing.shapes`, no network of any kind). Prints a table; writes `evaluation.csv` and
`samples.png` beside this file.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

import torch  # noqa: E402
from data import HELD_OUT, as_tensor, scenes  # noqa: E402
from diffusers import (  # noqa: E402
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from embedding import MEANING, WORD  # noqa: E402
from PIL import Image  # noqa: E402
from sheet import contact_sheet  # noqa: E402

from runai.testing import shapes  # noqa: E402

FOLDERS = {"v1/shapes": HERE.parent / "v1/shapes", "v2/shapes-v": HERE.parent / "v2/shapes-v"}
LORA = HERE.parent / "lora/outline.safetensors"
EMBEDDING = HERE.parent / f"embeddings/{WORD}.safetensors"
BATCH = 16
Triple = tuple[str, str, str]
SHEET_PROMPTS = [
    *("a red circle on a blue background", "a red circle", "small yellow star at the top"),
    *("a large green square on the left, on a white background", "a photo of a black cross"),
    *("purple diamond on orange", "a big pink triangle in the middle", "a star"),
    *("a tiny white circle on the right over a black background", "a shape on a cyan background"),
    *("an orange triangle at the bottom", "a blue cross on a yellow background"),
]


@dataclass(frozen=True)
class Settings:
    """How pictures are asked for."""

    steps: int = 25
    guidance: float = 5.0
    seeds: int = 2


def load(folder: Path, kind: type[DiffusionPipeline] = StableDiffusionPipeline) -> Any:
    """A pipeline of that folder with the Euler sampler, single precision."""
    pipe = kind.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prompt_of(triple: Triple) -> str:
    shape, colour, background = triple
    return shapes.plain_caption(
        shapes.Scene(shape, colour, background, "center", "medium", 0.5, 0.5, 0.24)
    )


def ask(pipe: Any, prompts: list[str], settings: Settings, **more: Any) -> list[Image.Image]:
    """One picture per prompt; the n-th has seed n. Lists in `more` go along prompt by prompt."""
    images: list[Image.Image] = []
    for first in range(0, len(prompts), BATCH):
        part = slice(first, first + BATCH)
        chosen = {k: v[part] if isinstance(v, list) else v for k, v in more.items()}
        seeds = range(first, first + len(prompts[part]))
        images += pipe(
            prompts[part],
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            **chosen,
        ).images
    return images


def shares(images: list[Image.Image], asked: list[Triple]) -> dict[str, float]:
    """The parts of the pictures with the asked colour, shape, both, ground, and all three."""
    found = [shapes.recognise(image) for image in images]
    checks: dict[str, Callable[[shapes.Sighting, Triple], bool]] = {
        "colour": lambda seen, want: seen.colour == want[1],
        "shape": lambda seen, want: seen.shape == want[0],
        "both": lambda seen, want: (seen.shape, seen.colour) == want[:2],
        "background": lambda seen, want: seen.background == want[2],
        "all": lambda seen, want: (seen.shape, seen.colour, seen.background) == want,
    }
    return {
        name: sum(check(seen, want) for seen, want in zip(found, asked, strict=True)) / len(asked)
        for name, check in checks.items()
    }


def held_out(folder: Path, settings: Settings) -> dict[str, float]:
    """The main figure: the 64 held-out prompts, each with several seeds."""
    asked = HELD_OUT * settings.seeds
    return shares(ask(load(folder), [prompt_of(t) for t in asked], settings), asked)


def negative_prompt(folder: Path, settings: Settings) -> dict[str, float]:
    """How often "a red circle" comes out on the ground it likes best, unless that is unwanted."""
    pipe, prompts = load(folder), ["a red circle"] * 64

    def grounds(unwanted: str) -> list[str]:
        images = ask(pipe, prompts, settings, negative_prompt=[unwanted] * len(prompts))
        return [shapes.recognise(image).background for image in images]

    freely = grounds("")
    liked = max(sorted(set(freely)), key=freely.count)
    avoiding = grounds(f"a circle on a {liked} background")
    return {
        f"a red circle: on {liked}": freely.count(liked) / len(freely),
        f"a red circle, negative prompt names {liked}: on {liked}": avoiding.count(liked)
        / len(avoiding),
    }


def _psnr(left: Image.Image, right: Image.Image, box: tuple[int, int, int, int]) -> float:
    pair = as_tensor([left.crop(box), right.crop(box)])
    return float(10 * torch.log10(4 / (pair[0] - pair[1]).square().mean()))


def img2img(folder: Path, settings: Settings) -> dict[str, float]:
    """From other scenes' pictures: how much of the prompt comes true at each strength."""
    pipe, asked, result = load(folder, StableDiffusionImg2ImgPipeline), HELD_OUT[::2], {}
    starts = [shapes.draw(scene) for scene in scenes(len(asked), seed=77)]
    for strength in (0.2, 0.5, 0.8, 1.0):
        prompts = [prompt_of(t) for t in asked]
        images = ask(pipe, prompts, settings, image=starts, strength=strength)
        result[f"img2img strength {strength}: all"] = shares(images, asked)["all"]
    return result


def inpaint(folder: Path, settings: Settings) -> dict[str, float]:
    """Repaint the middle of a plain ground: is the shape there, and is the rest untouched?"""
    pipe, asked, result = load(folder, StableDiffusionInpaintPipeline), HELD_OUT[::2], {}
    starts = [Image.new("RGB", (128, 128), shapes.COLOURS[t[2]]) for t in asked]
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (16, 16, 112, 112))
    images = ask(
        pipe,
        [prompt_of(t) for t in asked],
        settings,
        image=starts,
        mask_image=[mask] * len(asked),
        width=128,
        height=128,
    )
    result["inpainting: both"] = shares(images, asked)["both"]
    kept = [_psnr(a, b, (0, 0, 128, 12)) for a, b in zip(starts, images, strict=True)]
    result["inpainting: PSNR outside the mask"] = sum(kept) / len(kept)
    return result


def autoencoder(folder: Path, count: int = 64) -> dict[str, float]:
    """PSNR of fresh scenes coded and decoded, in dB."""
    vae = load(folder).vae
    pictures = as_tensor([shapes.draw(scene) for scene in scenes(count, seed=99)])
    with torch.no_grad():
        decoded = vae.decode(vae.encode(pictures).latent_dist.mean).sample
    each = 10 * torch.log10(4 / (decoded - pictures).square().mean(dim=(1, 2, 3)))
    return {"autoencoder: mean PSNR": float(each.mean()), "autoencoder: least": float(each.min())}


def lora(folder: Path, settings: Settings) -> dict[str, float]:
    """How many of the held-out prompts come out as outlines, at each weight of the LoRA."""
    pipe, prompts, result = load(folder), [prompt_of(t) for t in HELD_OUT], {}
    pipe.load_lora_weights(LORA.parent, weight_name=LORA.name, adapter_name="outline")
    for weight in (0.0, 0.25, 0.5, 0.75, 1.0):
        pipe.set_adapters("outline", weight)
        images = ask(pipe, prompts, settings)
        outlines = [shapes.recognise(image).outlined for image in images]
        result[f"outline LoRA, weight {weight}: outlines"] = sum(outlines) / len(outlines)
        for name in ("shape", "colour", "background"):
            figure = shares(images, HELD_OUT)[name]
            result[f"outline LoRA, weight {weight}: {name}"] = figure
    return result


def embedding(folder: Path, settings: Settings) -> dict[str, float]:
    """How often the new word comes out as what it means, alone and with other words."""
    pipe, result = load(folder), {}
    pipe.load_textual_inversion(EMBEDDING.parent, weight_name=EMBEDDING.name, token=WORD)
    for prompt in (WORD, f"a small {WORD} at the top", f"a {WORD} on a red background"):
        prompts = [pipe.maybe_convert_prompt(prompt, pipe.tokenizer)] * 32
        figures = shares(ask(pipe, prompts, settings), [MEANING] * 32)
        result |= {f"{prompt}: {name}": value for name, value in figures.items()}
    return result


def measure(folder: Path, settings: Settings, everything: bool) -> dict[str, float]:
    """All figures of one folder, by name."""
    figures = {f"held out: {k}": v for k, v in held_out(folder, settings).items()}
    if not everything:
        return figures
    for guidance in (1.0, 3.0, 7.5):
        other = Settings(settings.steps, guidance, 1)
        figures[f"held out, guidance {guidance}: both"] = held_out(folder, other)["both"]
    for more in (negative_prompt, img2img, inpaint):
        figures |= more(folder, settings)
    if folder == FOLDERS["v1/shapes"]:
        figures |= lora(folder, settings) | embedding(folder, settings)
    return figures | autoencoder(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the main figure and the sheet only")
    parser.add_argument("--models", nargs="*", choices=list(FOLDERS), default=list(FOLDERS))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    settings = Settings(arguments.steps, arguments.guidance, arguments.seeds)
    rows: list[tuple[str, str, float]] = []
    sheet: dict[str, list[Image.Image]] = {}
    for name in arguments.models:
        started = time.monotonic()
        for figure, value in measure(FOLDERS[name], settings, not arguments.quick).items():
            rows.append((name, figure, round(value, 4)))
            print(f"{name}: {figure} {value:.3f}", flush=True)
        sheet[name] = ask(load(FOLDERS[name]), SHEET_PROMPTS, settings)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    contact_sheet(SHEET_PROMPTS, sheet).save(HERE / "samples.png", optimize=True)
    with (HERE / "evaluation.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("model", "figure", "value"), *rows])


if __name__ == "__main__":
    main()
