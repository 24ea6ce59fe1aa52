"""Which device to draw on, and in which number format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from runai.errors import InvalidSetting

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_FAST_BF16 = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True)
class Place:
    """A device and the dtype that model weights have on it."""

    device: torch.device
    dtype: torch.dtype

    def free_bytes(self) -> int:
        """Memory that a new model could take, in bytes."""
        if self.device.type == "cuda":
            return int(torch.cuda.mem_get_info(self.device)[0])
        return available_memory()


def choose(device: str = "auto", dtype: str = "auto") -> Place:
    """The place that the settings name; `auto` takes the fastest that this machine has.

    fp16 on CUDA and Apple's GPUs, bf16 on processors that multiply it in hardware, else fp32.
    """
    chosen = torch.device(_best_device() if device == "auto" else device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InvalidSetting(
            "There is no CUDA device that torch can use.",
            hint="Install a CUDA build of torch and the driver, or use --device cpu.",
            field="device",
        )
    if dtype != "auto":
        return Place(chosen, DTYPES[dtype])
    if chosen.type in ("cuda", "mps"):
        return Place(chosen, torch.float16)
    return Place(chosen, torch.bfloat16 if _cpu_flags() & _FAST_BF16 else torch.float32)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return set()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return set(line.split())


def available_memory() -> int:
    """Main memory that can be had without swapping, in bytes (Linux; elsewhere 8 GiB)."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return 8 * 2**30
    line = next(line for line in text.splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024
