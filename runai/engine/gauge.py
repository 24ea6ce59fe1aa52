"""A figure that takes reading: exact for who decides by it, recent for who only shows it.

How much memory is free stands in a dozen files of the system. Each time one is opened and read,
Python lets another thread run first, and with hundreds of clients asking at once those waits come
to a tenth of a second. So who shows the figure takes what was read within the last second,
whoever read it; while a model is drawn with, the engine does so all the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

RECENT_S = 1.0


class Gauge:
    """What `read` says. Both methods may be called from any thread: of two that read at the same
    time the later note stays, and both are recent.
    """

    def __init__(
        self, read: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._noted: tuple[float, int] | None = None  # replaced as a whole

    def exact(self) -> int:
        """As it is now."""
        value = self._read()
        self._noted = self._clock(), value
        return value

    def recent(self) -> int:
        """As it was at some time within the last `RECENT_S`."""
        noted = self._noted
        if noted is not None and self._clock() - noted[0] < RECENT_S:
            return noted[1]
        return self.exact()
