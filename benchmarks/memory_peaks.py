"""What drawing takes beside the weights: the factors of `runai/engine/plan.py`.

    python benchmarks/memory_peaks.py                            counted, in seconds
    python benchmarks/memory_peaks.py --process decode 64 bf16   measured: one real call

Counted: the full-size networks run on torch's meta device, where tensors have sizes and no
contents, and the bytes of all tensors that live at the same time are added up; attention is
counted as the fused kernels do it, without a matrix of scores. The same for any dtype and size.

Measured: how far this process grows (VmHWM over VmRSS) in one call of a Stable Diffusion 1
network with random weights, on the processor. A fresh process each time: memory that was used
once is seldom given back. `decode`, `tiles`, `encode`, `tiny` (TAESD's decoder) or `unet` (2 rows),
latents a side, dtype.
"""

from __future__ import annotations

import argparse
import json
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.utils import logging
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runai.engine.archs import ARCHS
from runai.engine.devices import DTYPES
from runai.engine.plan import TILE

UNETS = ("sd1", "sd2", "sdxl")
VAE_ARCH = ARCHS["sd1"]
SMALL = 8  # latents a side of a first call, which sets up what stays


class Living(TorchDispatchMode):
    """Adds up the bytes of the tensors that are made and not gone yet."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = {id_of(tensor) for tensor in network.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and id_of(tensor) not in self._seen:
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def id_of(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def counted(name: str, side: int, dtype: torch.dtype) -> float:
    """Elements that live at the peak: per latent, row and width of a UNet, or per pixel and
    width of a VAE.
    """
    with torch.device("meta"):
        network, call = prepared(name, side, dtype, rows=1)
        with torch.no_grad(), Living(network) as living:
            call(side)
    elements = living.peak / dtype.itemsize
    if name in UNETS:
        return elements / side**2 / network.config.block_out_channels[0]
    return elements / (8 * side) ** 2 / network.config.block_out_channels[1]


def prepared(
    name: str, side: int, dtype: torch.dtype, rows: int
) -> tuple[Any, Callable[[int], Any]]:
    """A network with random weights, and its call on a corner of its input."""
    if name in UNETS:
        return prepared_unet(ARCHS[name].unet, side, dtype, rows)
    vae = AutoencoderTiny() if name == "tiny" else AutoencoderKL.from_config(VAE_ARCH.vae)
    vae = vae.to(dtype).eval()
    if name == "encode":
        pixels = torch.randn(1, 3, 8 * side, 8 * side, dtype=dtype)
        return vae, lambda n: vae.encode(pixels[:, :, : 8 * n, : 8 * n])
    if name == "tiles":
        vae.enable_tiling()
        vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // 8
    latents = torch.randn(1, 4, side, side, dtype=dtype)
    return vae, lambda n: vae.decode(latents[:, :, :n, :n])


def prepared_unet(
    config: Any, side: int, dtype: torch.dtype, rows: int
) -> tuple[Any, Callable[[int], Any]]:
    unet = UNet2DConditionModel.from_config(config).to(dtype).eval()
    latents = torch.randn(rows, config["in_channels"], side, side, dtype=dtype)
    text = torch.randn(rows, 77, config["cross_attention_dim"], dtype=dtype)
    added = {"text_embeds": torch.randn(rows, 1280), "time_ids": torch.zeros(rows, 6)}
    return unet, lambda n: unet(
        latents[:, :, :n, :n], torch.ones(rows), text, added_cond_kwargs=added
    )


@torch.inference_mode()
def measured(name: str, side: int, dtype: torch.dtype) -> dict[str, Any]:
    _, call = prepared({"unet": "sd1"}.get(name, name), side, dtype, rows=2)
    call(SMALL)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before, began = memory("VmRSS"), time.perf_counter()
    call(side)
    took = time.perf_counter() - began
    grown = memory("VmHWM") - before
    return {"what": name, "side": side, "dtype": str(dtype), "bytes": grown, "seconds": took}


def memory(key: str) -> int:
    """From /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def fused(query: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Attention's result without the scores."""
    return torch.empty_like(query)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--process", nargs=3, metavar=("WHAT", "SIDE", "DTYPE"))
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    if arguments.process:
        what, side, dtype = arguments.process
        print(json.dumps(measured(what, int(side), DTYPES[dtype])))
        return
    torch.nn.functional.scaled_dot_product_attention = fused
    for name in (*UNETS, "decode", "encode", "tiny"):
        for side in (64, 128):
            for dtype in DTYPES.values():
                print(f"{name:8}{side:5} {dtype!s:16}{counted(name, side, dtype):8.2f}")


if __name__ == "__main__":
    main()
