"""How long the engine takes for what: each stage as it is gone through, until somebody asks.

What nobody asks for is forgotten, the oldest first. Waits for no GPU: see `runai.schema.stages`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from runai.schema.stages import Spent, Stage

MOST_KEPT = 4096


class Stopwatch:
    """`keys`: of the requests that work is done for now."""

    def __init__(self) -> None:
        self.keys: tuple[str, ...] = ()
        self._spent: deque[Spent] = deque(maxlen=MOST_KEPT)

    @contextmanager
    def time(self, stage: Stage) -> Iterator[None]:
        """Take the time of what is done within, also of what fails."""
        began, keys = time.perf_counter(), self.keys
        try:
            yield
        finally:
            self._spent.append(Spent(stage, time.perf_counter() - began, keys))

    def take(self) -> list[Spent]:
        """What was timed since the last call."""
        spent = list(self._spent)
        self._spent.clear()
        return spent
