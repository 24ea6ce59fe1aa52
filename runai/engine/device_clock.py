"""How long a device works on something, without the host waiting for it.

A processor is done when the call returns. A GPU has only been told by then: it notes when it began
and ended, and what it noted is read a turn later, when that is over. So the host waits for no
result; but it does not run ahead by more than `AHEAD` either: a cancel could not call back
what the GPU was told already.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

AHEAD = 1  # calls that a GPU is told beside the one it works on: none, and it would idle between
Tell = Callable[[float], None]


class DeviceClock:
    """`now`: of a processor, in seconds."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._under_way: deque[tuple[Any, Any, Tell]] = deque()

    def can_time(self, device: torch.device) -> bool:
        """Apple's GPUs, say, only are told what to do, too, and do not say how long it took."""
        return device.type in ("cpu", "cuda")

    @contextmanager
    def time(self, device: torch.device, tell: Tell) -> Iterator[None]:
        """Take the time of what is done within and `tell` it, now or later. What fails has none,
        nor what is done where it cannot be taken.
        """
        if not self.can_time(device):
            yield
            return
        if device.type != "cuda":
            began = self._now()
            yield
            tell(self._now() - began)
            return
        self._read(AHEAD)
        began_at, ended_at = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(device)
        began_at.record(stream)
        yield
        ended_at.record(stream)
        self._under_way.append((began_at, ended_at, tell))

    def _read(self, most: int) -> None:
        """Tell what is over, and wait until no more than `most` are under way."""
        while self._under_way and (len(self._under_way) > most or self._under_way[0][1].query()):
            began_at, ended_at, tell = self._under_way.popleft()
            ended_at.synchronize()
            tell(began_at.elapsed_time(ended_at) / 1000)
