"""What torch is, what it draws on, and whether it computes right there."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from runai.cli.checks import Finding
from runai.engine.devices import DTYPES, choose
from runai.schema.units import bytes_text
from runai.settings import Settings

SIDE = 64  # of the matrices that are multiplied
# of the largest value, by number format: half a dozen roundings
TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2}


def torch_build(settings: Settings) -> Iterator[Finding]:
    kinds = [
        f"CUDA {torch.version.cuda}" if torch.version.cuda else "",
        f"ROCm {torch.version.hip}" if torch.version.hip else "",
        "MPS" if torch.backends.mps.is_built() else "",
    ]
    yield Finding("ok", f"{torch.__version__} for {', '.join(filter(None, kinds)) or 'CPU only'}")


def device(settings: Settings) -> Iterator[Finding]:
    place = choose(settings.device, settings.dtype)
    name = torch.cuda.get_device_name(place.device) if place.has_own_memory else ""
    about = f" ({name})" if name else ""
    yield Finding("ok", f"{place.device}{about}, {bytes_text(place.free_bytes())} free for models")
    if torch.version.cuda and not torch.cuda.is_available():
        yield Finding(
            "warning",
            "This torch is built for CUDA, and there is no GPU that it can use.",
            "Install the GPU's driver, or the smaller build of torch for CPU only.",
        )


def number_formats(settings: Settings) -> Iterator[Finding]:
    place = choose(settings.device, settings.dtype)
    chosen = next(name for name, dtype in DTYPES.items() if dtype == place.dtype)
    faults = {name: _fault(place.device, name) for name in DTYPES}
    sound = [name for name, fault in faults.items() if not fault]
    if fault := faults[chosen]:
        yield Finding(
            "problem",
            f"{chosen}, which is drawn in, does not work on {place.device}: {fault}",
            f"Start with --dtype {sound[0]}." if sound else "Install another build of torch.",
        )
    else:
        others = [name for name in sound if name != chosen]
        also = f"; right as well: {', '.join(others)}" if others else ""
        yield Finding("ok", f"{chosen} is drawn in{also}")


def _fault(where: torch.device, name: str) -> str:
    """What is wrong with products of matrices in this format; empty: nothing."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.rand(SIDE, SIDE, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    try:
        there = [matrix.to(where, DTYPES[name]) for matrix in (left, right)]
        said = (there[0] @ there[1]).cpu().double()
    except (RuntimeError, TypeError) as error:
        return f"{error}."
    off = float((said - exact).abs().max() / exact.max())
    return "" if off <= TOLERANCES[name] else f"a product is off by {off:.1%}."


def threads(settings: Settings) -> Iterator[Finding]:
    used, there = torch.get_num_threads(), len(os.sched_getaffinity(0))
    on_cpu = choose(settings.device, settings.dtype).device.type == "cpu"
    if on_cpu and 2 * used < there and "OMP_NUM_THREADS" in os.environ:
        yield Finding(
            "warning",
            f"{used} of {there} processors are used, for OMP_NUM_THREADS says so.",
            "Unset OMP_NUM_THREADS.",
        )
    else:
        yield Finding("ok", f"{used}, and {there} processors for this program")
