"""Stamps: numbers that change when a file, a folder of models or a model in a folder does.

A stamp is the time of the newest change in ns and the size. Only names and states are read.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

Stamp = tuple[int, int]


def folder_time(folder: Path) -> int:
    """When something was last put into a folder or taken out, in ns; -1: it is not there."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return -1


def stamp_of(path: Path, *, is_folder: bool) -> Stamp | None:
    """The stamp of a file, or of a model in a folder, as it is now; None: it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return folder_stamp(path) if is_folder else (status.st_mtime_ns, status.st_size)


def folder_stamp(path: Path) -> Stamp:
    """Of a diffusers folder: over its own files and those of its parts' folders."""
    times, sizes = [0], [0]
    parts = (Path(item.path) for item in _items(path) if item.name[0] != ".")
    for folder in (path, *parts):
        for item in _items(folder):
            with contextlib.suppress(OSError):  # a link to nothing: detection will say so
                status = item.stat()
                times.append(status.st_mtime_ns)
                sizes.append(status.st_size if stat.S_ISREG(status.st_mode) else 0)
    return max(times), sum(sizes)


def _items(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder; nothing if it is none."""
    with contextlib.suppress(OSError), os.scandir(folder) as items:
        yield from items
