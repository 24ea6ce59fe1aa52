"""How much of what the device can multiply a UNet call makes use of.

    python benchmarks/utilisation.py [--rows N] [--size PIXELS] [--rounds 5]

A call of Stable Diffusion 1.5's UNet (random weights), as the engine makes it, against products
of square matrices with as many operations in the same number format, which is about the most that
a device does: a ratio of 2.5 is 40 %. Operations are those of convolutions, products and attention,
as `torch.utils.flop_counter` counts them. 16 rows of 512 × 512 on a GPU (eight guided pictures),
else 2 of 256 × 256. On a GPU one call that is played against one as it comes as well.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import torch
from example import example_engine, held
from side_by_side import compare
from torch.utils.flop_counter import FlopCounterMode

from runai.engine.archs import ARCHS
from runai.engine.backends import Asked, Denoiser, torch_networks
from runai.engine.backends.recording import WARM, RecordedDenoiser
from runai.engine.loading import networks
from runai.engine.model import LoadedModel
from runai.schema.requests import TextToImage

SIDE = {"cuda": 8192}  # of the matrices; large enough to keep the device busy
TOKENS = 77


def operations(width: int, rows: int, side: int) -> int:
    """Of one call: floating-point operations, a multiplication and an addition being two.

    `width`: of the text.
    """
    unet = networks.empty_unet({**ARCHS["sd1"].unet, "cross_attention_dim": width}).to("meta")
    given = (torch.empty(rows, 4, side, side), torch.empty(rows), torch.empty(rows, TOKENS, width))
    with FlopCounterMode(display=False) as counter:
        unet(*(tensor.to("meta") for tensor in given))
    return int(counter.get_total_flops())


def seconds(call: Callable[[], object], model: LoadedModel) -> float:
    began = time.perf_counter()
    call()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def called(denoiser: Denoiser, model: LoadedModel, rows: int, side: int) -> Callable[[], object]:
    """A UNet call; on CUDA it is recorded by now, where it is at all."""
    latents = torch.randn(rows, 4, side, side, device=model.device)
    times = torch.full((rows,), 500.0, device=model.device)
    width = model.unet.config.cross_attention_dim
    text = torch.randn(rows, TOKENS, width).to(model.device, model.dtype)
    call = functools.partial(denoiser, Asked(latents, times, text, {}))
    for _ in range(WARM):
        call()
    return call


def multiplied(count: int, model: LoadedModel) -> Callable[[], None]:
    """Products of matrices with so many operations; the last one's matrix is a narrower one."""
    side = SIDE.get(model.device.type, 2048)
    one, other = torch.randn(2, side, side).to(model.device, model.dtype)
    whole, rest = divmod(count, 2 * side**3)
    narrow = other[:, : max(1, rest // (2 * side**2))].contiguous()

    def multiply() -> None:
        for _ in range(whole):
            one @ other
        one @ narrow

    return multiply


@torch.inference_mode()
def measure(model: LoadedModel, ours: Denoiser, args: argparse.Namespace) -> None:
    on_gpu = model.device.type == "cuda"
    rows = args.rows or (16 if on_gpu else 2)
    side = (args.size or (512 if on_gpu else 256)) // 8
    count = operations(model.unet.config.cross_attention_dim, rows, side)
    call = called(ours, model, rows, side)
    found = compare(
        f"a UNet call of {rows} rows, {side * 8}², {model.dtype}, against products of matrices",
        functools.partial(seconds, call, model),
        functools.partial(seconds, multiplied(count, model), model),
        rounds=args.rounds,
    )
    found.show()
    print(f"{count / 1e12:.2f} Tflop a call, {count / found.ours_s / 1e12:.2f} Tflop/s in it")
    if not isinstance(ours, RecordedDenoiser):
        return
    for few in (2, rows):
        compare(
            f"a UNet call of {few} rows, {side * 8}², {model.dtype}, played, against as it comes",
            functools.partial(seconds, called(ours, model, few, side), model),
            functools.partial(
                seconds, called(torch_networks(model).denoiser, model, few, side), model
            ),
            rounds=args.rounds,
        ).show()
    if not ours.recordings.recorded:
        raise SystemExit("Nothing was recorded: both are calls as they come.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--size", type=int, help="pixels a side")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    backend = "auto" if torch.cuda.is_available() else "torch"  # else OpenVINO is made beside it
    with example_engine(full=True, backend=backend) as engine:
        first = TextToImage(id="b", prompt="x", num_inference_steps=1)
        engine.admit("b", first)
        while engine.is_busy():
            engine.step()
        model, plan = held(engine), engine._fitting.newest
        measure(model, engine._backends.networks(model, plan, (), 1).denoiser, args)


if __name__ == "__main__":
    main()
