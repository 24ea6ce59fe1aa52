"""A UNet call with the network laid out otherwise, against the network as it comes.

    python benchmarks/layouts.py [--size 256] [--rounds 5]

Stable Diffusion 1.5 of full size with random weights, two rows, as guidance wants it, on the device
and in the dtype that the engine would choose. channels_last: the weights of convolutions, and so
what goes through them, have their channels innermost. Fused QKV: the three products with which an
attention begins are made by one. Both are kept beside the network as it comes: 10 GB in fp32.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from backends import ARCH, ROWS, TOKENS, filled
from side_by_side import compare

from runai.engine.devices import Place, choose
from runai.engine.loading import networks


def channels_last(unet: Any) -> None:
    unet.to(memory_format=torch.channels_last)


def fused(unet: Any) -> None:
    unet.fuse_qkv_projections()


LAYOUTS: dict[str, Callable[[Any], None]] = {"channels_last": channels_last, "fused QKV": fused}


def seconds(unet: Any, given: tuple[torch.Tensor, ...], place: Place) -> float:
    began = time.perf_counter()
    unet(*given)
    if place.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    place = choose()
    unet = filled(networks.empty_unet(ARCH.unet), place.dtype).to(place.device)
    latents = torch.randn(ROWS, 4, args.size // 8, args.size // 8)
    given = (latents, torch.full((ROWS,), 500.0), torch.randn(ROWS, TOKENS, 768))
    given = tuple(tensor.to(place.device, place.dtype) for tensor in given)
    for name, lay_out in LAYOUTS.items():
        other = copy.deepcopy(unet)
        lay_out(other)
        compare(
            f"{name}, {args.size} × {args.size}, {place.dtype}, against as it comes",
            partial(seconds, other, given, place),
            partial(seconds, unet, given, place),
            rounds=args.rounds,
        ).show()
        del other


if __name__ == "__main__":
    main()
