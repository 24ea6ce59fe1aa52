"""What the machine has to offer besides the device."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from runai.cli.checks import Finding
from runai.engine.main_memory import available_memory
from runai.schema.units import bytes_text
from runai.settings import Settings

LEAST_MEMORY = 4_000_000_000  # of Stable Diffusion 1.5 in bf16, at 512 × 512
LEAST_SHARED = 1_000_000  # torch keeps a semaphore there
SHARED = Path("/dev/shm")  # noqa: S108 (looked at, not used)


def memory(settings: Settings) -> Iterator[Finding]:
    free = available_memory()
    if free >= LEAST_MEMORY:
        yield Finding("ok", f"{bytes_text(free)} of main memory free")
    else:
        yield Finding(
            "warning",
            f"{bytes_text(free)} of main memory are free, and models may need "
            f"{bytes_text(LEAST_MEMORY)}.",
            "Close other programs; where memory is short, plans that need less are chosen.",
        )


def temp_folder(settings: Settings) -> Iterator[Finding]:
    try:
        yield Finding("ok", f"{tempfile.gettempdir()} can be written to")  # it has tried
    except FileNotFoundError:
        yield Finding(
            "problem",
            "No folder for temporary files can be written to, and torch wants one to start.",
            "Set TMPDIR to a folder that can be; it may be in memory (tmpfs).",
        )


def shared_memory(settings: Settings, place: Path = SHARED) -> Iterator[Finding]:
    if not place.is_dir():
        yield Finding("ok", f"there is no {place} on this system")
        return
    free = shutil.disk_usage(place).free
    if os.access(place, os.W_OK) and free >= LEAST_SHARED:
        yield Finding("ok", f"{bytes_text(free)} free in {place}")
    else:
        yield Finding(
            "problem",
            f"{place} cannot be written to, or is full.",
            f"Give it {bytes_text(LEAST_SHARED)} (docker: --shm-size), and all the right to write.",
        )
