"""Which device to draw on, and in which number format."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from runai.engine.main_memory import available_memory
from runai.errors import InvalidSetting

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_FAST_BF16 = {"avx512_bf16", "amx_bf16"}
# of a processor's allocator; of CUDA's own calls and of MPS; of cuBLAS and cuDNN; of oneDNN, which
# gives no reason (met in a process that could have no more memory)
_NO_MEMORY = re.compile(
    "can't allocate memory|not enough memory|out of memory|_STATUS_ALLOC_FAILED"
    "|could not (create|execute) a primitive$",
    re.MULTILINE,
)
# how many there are of each kind
_DEVICES: dict[str, Callable[[], int]] = {
    "cpu": lambda: 1,
    "cuda": torch.cuda.device_count,
    "mps": lambda: int(torch.backends.mps.is_available()),
}


@dataclass(frozen=True)
class Place:
    """A device and the dtype that model weights have on it."""

    device: torch.device
    dtype: torch.dtype

    @property
    def has_own_memory(self) -> bool:
        """Whether its memory is another than the main memory."""
        return self.device.type == "cuda"

    def free_bytes(self) -> int:
        """Memory that a new model could take, in bytes."""
        if self.device.type == "cuda":
            reserved = torch.cuda.memory_reserved(self.device)  # by torch, not all of it in use
            unused = reserved - torch.cuda.memory_allocated(self.device)
            return int(torch.cuda.mem_get_info(self.device)[0]) + unused
        return available_memory()


def choose(device: str = "auto", dtype: str = "auto") -> Place:
    """The place that the settings name; `auto` takes the fastest that this machine has.

    fp16 on CUDA and Apple's GPUs, bf16 on processors that multiply it in hardware, else fp32.
    """
    chosen = torch.device(_best_device() if device == "auto" else device)
    if (chosen.index or 0) >= _DEVICES[chosen.type]():
        raise InvalidSetting(
            f"There is no device {chosen} that torch can use.",
            hint="Install the driver and a build of torch for it, or use --device cpu.",
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


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether this is what torch raises for want of memory; on a processor it has no own type."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error) if isinstance(error, RuntimeError) else ""
    return _NO_MEMORY.search(text) is not None
