"""Room on disk: whether something fits, asked before it is written. No torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from runai.errors import NoSpace

MARGIN_BYTES = 64 * 2**20  # left free beside what is written


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raise NoSpace if the disk of this folder cannot take so many bytes more."""
    free = shutil.disk_usage(folder).free
    if needed_bytes + MARGIN_BYTES > free:
        raise NoSpace(f"{needed_bytes / 1e9:.2f} GB are needed in {folder}, {free / 1e9:.2f} free.")
