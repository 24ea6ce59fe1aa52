"""A UNet call and a VAE decode by OpenVINO as it is used here, against bare OpenVINO and torch.

    python benchmarks/backends.py [--part unet|decoder] [--size 256] [--dtype fp32] [--rounds 5]

Stable Diffusion 1.5 of full size with random weights; the UNet for two rows, as guidance wants
it. Bare OpenVINO is what its own converter makes of the network by tracing it, compiled for this
size alone (the converter needs some 9 GB); --no-traced leaves it out. Before that, what making
ours takes: seconds to write the graph and to compile it, and the memory that the process has
gained, the peak of it too. All draw with as many threads as torch does.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import compare

from runai.engine.archs import ARCHS
from runai.engine.backends import Asked, graph, openvino_backend
from runai.engine.backends.quietly import ov
from runai.engine.devices import DTYPES
from runai.engine.loading import networks

ARCH = ARCHS["sd1"]
ROWS, TOKENS = 2, 77
Call = Callable[[], torch.Tensor]


def filled(network: Any, dtype: torch.dtype) -> Any:
    """Norms leave as it is what they normalise, all else is random."""
    weights = {}
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1:
            values = torch.full(tensor.shape, 1.0 if name.endswith("weight") else 0.0)
        else:
            values = torch.randn(tensor.shape) * (0.7 / (tensor[0].numel() ** 0.5))
        weights[name] = values.to(dtype)
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)


class _Unet(torch.nn.Module):
    """A UNet as the converter wants it: tensors in, a tensor out."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Any, times: Any, text: Any) -> Any:
        return self.unet(latents, times, text, return_dict=False)[0]


class _Decoder(torch.nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Any) -> Any:
        return self.vae.decode(latents, return_dict=False)[0]


def of_unet(side: int, dtype: torch.dtype, traced: bool) -> tuple[Call, Call, Call | None]:
    """Ours, torch's, and bare OpenVINO's call."""
    unet = filled(networks.empty_unet(ARCH.unet), dtype)
    latents, text = torch.randn(ROWS, 4, side, side), torch.randn(ROWS, TOKENS, 768).to(dtype)
    times = torch.full((ROWS,), 500.0)
    ours = openvino_backend.OpenVinoDenoiser(unet, made(lambda: graph.of_unet(unet), dtype))
    given = (latents.to(dtype), times, text)
    bare = by_tracing(_Unet(unet), given, dtype) if traced else None
    asked = Asked(latents, times, text, {})
    return lambda: ours(asked), lambda: _Unet(unet)(*given), bare


def of_decoder(side: int, dtype: torch.dtype, traced: bool) -> tuple[Call, Call, Call | None]:
    vae = filled(networks.empty_vae(ARCH.vae), dtype)
    latents = torch.randn(1, 4, side, side)
    ours = openvino_backend.OpenVinoDecoder(made(lambda: graph.of_decoder(vae), dtype))
    given = (latents.to(dtype),)
    bare = by_tracing(_Decoder(vae), given, dtype) if traced else None
    return lambda: ours(latents), lambda: _Decoder(vae)(*given), bare


PARTS = {"unet": of_unet, "decoder": of_decoder}


def made(write: Callable[[], Any], dtype: torch.dtype) -> Any:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = _status("VmRSS"), time.perf_counter()
    written = write()
    wrote = time.perf_counter() - began
    compiled = openvino_backend.compiled(written, dtype, torch.get_num_threads())
    took, peak = time.perf_counter() - began - wrote, _status("VmHWM") - before
    print(f"written in {wrote:.2f} s, compiled in {took:.1f} s, peak {peak / 1e9:.2f} GB more")
    return compiled


def by_tracing(module: Any, given: tuple[torch.Tensor, ...], dtype: torch.dtype) -> Call:
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what tracing cannot see
        model = ov.convert_model(module, example_input=given)
    model.reshape({i: list(tensor.shape) for i, tensor in enumerate(given)})
    converted = time.perf_counter() - began
    (compiled,) = openvino_backend.compiled([model], dtype, torch.get_num_threads())
    request = compiled.create_infer_request()
    print(f"by tracing: converted in {converted:.1f} s")
    arrays = [tensor.float().numpy() for tensor in given]
    return lambda: torch.from_numpy(request.infer(arrays, share_inputs=True)[0])


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def seconds(call: Call) -> Callable[[], float]:
    def timed() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    return timed


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, default="unet")
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-traced", action="store_true", help="without bare OpenVINO")
    args = parser.parse_args()
    dtype = DTYPES[args.dtype]
    if not openvino_backend.can_compute(dtype):
        print(
            f"This processor does not compute in {args.dtype}: the engine would leave it to torch"
        )
    before = _status("VmRSS")
    ours, torchs, bare = PARTS[args.part](args.size // 8, dtype, not args.no_traced)
    apart = float((ours() - torchs().float()).norm() / torchs().float().norm())
    print(f"{apart:.1e} apart from torch; {(_status('VmRSS') - before) / 1e9:.2f} GB in all")
    what = f"{args.part}, {args.size} × {args.size}, {args.dtype}"
    compare(f"{what}, against torch", seconds(ours), seconds(torchs), rounds=args.rounds).show()
    if bare is not None:
        name = f"{what}, against bare OpenVINO"
        compare(name, seconds(ours), seconds(bare), rounds=args.rounds).show()


if __name__ == "__main__":
    main()
