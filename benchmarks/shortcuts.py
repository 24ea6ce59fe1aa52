"""What computing less gains, and what it costs the picture.

    python benchmarks/shortcuts.py [--pictures 64] [--steps 25] [--rounds 5] [--full] [--only tiny]
        [--backend torch]

For each shortcut, against the exact picture: the time of one picture, taking turns; then for many
prompts, drawn with both from the same seeds: how many show what was asked for (by
`runai.testing.shapes`, which looks at pixels), and how far the pictures are apart: the mean
difference of a pixel's value of 255, and the peak signal-to-noise ratio in dB. The example model,
guidance 5. With --full the time of a UNet of Stable Diffusion 1.5's size instead, at 256 × 256,
whose pictures mean nothing. By torch, or what --backend says.

The tiny autoencoder is distilled first (`tiny_decoder.py`), since none is published for the example
model; decoding by it is timed alone as well. With --full that is TAESD's size against the VAE's of
Stable Diffusion 1.5, and what a preview adds to a step: random weights.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import tiny_decoder
import torch
from diffusers import AutoencoderKL
from example import example_engine, example_model
from PIL import Image
from side_by_side import compare

from runai.engine import finish, loading
from runai.engine.archs import ARCHS
from runai.engine.catalogue import Catalogue
from runai.engine.engine import TorchEngine
from runai.engine.model import LoadedModel
from runai.schema.codec import parse_task
from runai.schema.events import Completed
from runai.schema.late import made
from runai.testing import shapes

SHORTCUTS: dict[str, dict[str, Any]] = {
    "guidance in the first half": {"guidance_end": 0.5},
    "guidance in the first four fifths": {"guidance_end": 0.8},
    "guidance from a tenth to four fifths": {"guidance_start": 0.1, "guidance_end": 0.8},
    "reuse 2": {"reuse": 2},
    "reuse 3": {"reuse": 3},
    "reuse 5": {"reuse": 5},
    "token merging 0.5": {"token_merging": 0.5},
    "reuse 3, guidance in the first four fifths": {"reuse": 3, "guidance_end": 0.8},
}
TINY = {"a tiny autoencoder decodes": {"vae": tiny_decoder.NAME}}
FIRST_SEED = 1000


def drawn(engine: TorchEngine, fields: dict[str, Any]) -> Image.Image:
    request = {"id": "b", "task": "txt2img", "guidance_scale": 5.0, "sampler": "euler", **fields}
    engine.admit("b", parse_task(request))
    events = [made(event) for _ in iter(engine.is_busy, False) for _, event in engine.step()]
    assert isinstance(events[-1], Completed), events[-1]
    return Image.open(io.BytesIO(events[-1].images[0].png))


def seconds(engine: TorchEngine, fields: dict[str, Any]) -> float:
    began = time.perf_counter()
    drawn(engine, {"prompt": "a red circle", "seed": 1, **fields})
    return time.perf_counter() - began


def asked_for(count: int) -> list[tuple[str, str, str]]:
    """Shape, colour and ground of so many pictures, all of them different."""
    all_ = [
        (shape, colour, ground)
        for shape in shapes.SHAPES
        for colour in shapes.COLOURS
        for ground in shapes.COLOURS
        if ground != colour
    ]
    order = np.random.default_rng(1).permutation(len(all_))
    return [all_[i] for i in order[:count]]


def many(engine: TorchEngine, count: int, fields: dict[str, Any]) -> list[Image.Image]:
    prompts = [
        f"a {colour} {shape} on a {ground} background" for shape, colour, ground in asked_for(count)
    ]
    return [
        drawn(engine, {"prompt": prompt, "seed": FIRST_SEED + i, **fields})
        for i, prompt in enumerate(prompts)
    ]


def right(pictures: list[Image.Image]) -> float:
    """The part that shows what was asked for."""
    seen = [shapes.recognise(picture) for picture in pictures]
    asked = asked_for(len(pictures))
    hits = [(s.shape, s.colour, s.background) == a for s, a in zip(seen, asked, strict=True)]
    return sum(hits) / len(hits)


def apart(ours: list[Image.Image], exact: list[Image.Image]) -> tuple[float, float]:
    """Mean difference, and PSNR in dB of the mean squared one."""
    a, b = (np.stack([np.asarray(p, dtype=float) for p in side]) for side in (ours, exact))
    return float(abs(a - b).mean()), float(10 * np.log10(255**2 / ((a - b) ** 2).mean()))


def decoding(model: LoadedModel, side: int) -> float:
    """Seconds that decoding a picture takes."""
    latents = torch.randn(1, 4, side // 8, side // 8, generator=torch.Generator().manual_seed(0))
    began = time.perf_counter()
    finish.decode(model, latents.to(model.device))
    return time.perf_counter() - began


def compare_decoding(model: LoadedModel, tiny: Any, side: int, rounds: int) -> None:
    compare(
        f"decoding {side}² by a tiny autoencoder, against the VAE",
        functools.partial(decoding, loading.with_vae(model, tiny), side),
        functools.partial(decoding, model, side),
        rounds=rounds,
    ).show()


def of_full_size(side: int, rounds: int) -> None:
    """TAESD's decoder against Stable Diffusion 1.5's, and against two rows of its UNet."""
    model = example_model(full=True)
    place = {"device": model.device, "dtype": model.dtype}
    vae = AutoencoderKL.from_config(ARCHS["sd1"].vae).to(**place).eval()
    tiny = tiny_decoder.sized(64, (3, 3, 3, 1)).to(**place).eval()
    model = replace(model, vae=vae)
    compare_decoding(model, tiny, side, rounds)
    compare(
        f"a preview of {side}² by a tiny autoencoder, against a guided step",
        functools.partial(decoding, loading.with_vae(model, tiny), side),
        functools.partial(step, model, side),
        rounds=rounds,
    ).show()


@torch.inference_mode()
def step(model: LoadedModel, side: int) -> float:
    """Seconds that a UNet call of two rows takes."""
    latents = torch.randn(2, 4, side // 8, side // 8).to(model.device, model.dtype)
    text = torch.randn(2, 77, model.unet.config.cross_attention_dim).to(model.device, model.dtype)
    began = time.perf_counter()
    model.unet(latents, torch.tensor(500), text).sample.float().cpu()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--backend", choices=("torch", "openvino"), default="torch")
    parser.add_argument("--only", default="", help="what is in the names of those to measure")
    args = parser.parse_args()
    same: dict[str, Any] = {"num_inference_steps": args.steps}
    if args.full:
        same |= {"width": 256, "height": 256}
    with contextlib.ExitStack() as stack:
        shortcuts, beside = dict(SHORTCUTS), []
        if args.full:
            of_full_size(256, max(3, args.rounds))
        else:
            model = example_model()
            beside = [stack.enter_context(tiny_decoder.distilled(model))]
            entry = Catalogue(beside).find(tiny_decoder.NAME, kind="vae")
            compare_decoding(model, loading.load_vae(entry, model.place), 128, 4 * args.rounds)
            shortcuts |= TINY
        engine = stack.enter_context(example_engine(*beside, full=args.full, backend=args.backend))
        exact = [] if args.full else many(engine, args.pictures, same)
        if args.full:
            seconds(engine, {**same, "num_inference_steps": 1})  # loads the model
        if exact:
            print(f"exact: {right(exact):.1%} of {len(exact)} show what was asked for")
            print(json.dumps({"name": "exact", "right": right(exact), "pictures": len(exact)}))
        chosen = {name: fields for name, fields in shortcuts.items() if args.only in name}
        for name, fields in chosen.items():
            compare(
                f"{name}, against exact",
                functools.partial(seconds, engine, {**same, **fields}),
                functools.partial(seconds, engine, same),
                rounds=args.rounds,
                warm=args.full,  # else rounds of a minute would be thrown away
            ).show()
            if exact:
                ours = many(engine, args.pictures, {**same, **fields})
                share, (mean, psnr) = right(ours), apart(ours, exact)
                print(f"{name}: {share:.1%} right, {mean:.1f} of 255 apart, {psnr:.1f} dB")
                print(json.dumps({"name": name, "right": share, "mean": mean, "psnr": psnr}))
                if name in TINY and share < right(exact):
                    print(
                        "(that is what two minutes of learning are worth: TAESD learnt for longer)"
                    )


if __name__ == "__main__":
    main()
