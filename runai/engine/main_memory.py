"""How much main memory can be had: of the machine's, and of what this process may have.

A container or a service often may have less than the machine. Linux says so in control groups,
each with a limit for all within it, up to the root
(https://docs.kernel.org/admin-guide/cgroup-v2.html, "Memory Interface Files"; version 1:
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html). What is used of it counts the cache
of files too, which is given back when it is wanted. Other systems have no such groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class _Files:
    """Of one version: where the groups are, and the names of what they say."""

    root: str
    limit: str
    used: str
    cached: str  # a line of memory.stat


_V1 = _Files(
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
)
_V2 = _Files("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")


def available_memory(root: Path = Path("/")) -> int:
    """Main memory that can be had without swapping, in bytes. `root`: of the file system."""
    return max(0, min([psutil.virtual_memory().available, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes, of every group that this process is in and that has a limit."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        files = _V1 if controllers else _V2
        group = Path(path.lstrip("/"))
        for within in (group, *group.parents):
            yield from _left(root / files.root / within, files)


def _left(group: Path, files: _Files) -> Iterator[int]:
    limit, used = (_text(group / name).strip() for name in (files.limit, files.used))
    if not (limit.isdigit() and used.isdigit()):  # "max"; no such group in this container
        return
    stat = dict(line.split() for line in _text(group / "memory.stat").splitlines())
    yield int(limit) - int(used) + int(stat.get(files.cached, 0))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
