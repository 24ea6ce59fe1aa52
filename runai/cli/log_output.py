"""Where the log goes: the process's stderr, in such a way that nobody ever waits for it.

Theory of operation. stderr may be a pipe that nobody reads, a terminal that is held, or closed.
So before each write the kernel is asked whether it would take it, and no more is written than a
pipe takes whole (`PIPE_BUF`); what does not go waits here, up to `MOST_BYTES`, for the next
line. Beyond that, lines are lost, and counted. There is no thread: so there is none that could
hang in a write when the server ends, and what was logged before a crash is out.

Not made non-blocking: that would be so for every program that has the same terminal or pipe. A
terminal, which says that it takes more as soon as it takes one byte, is opened once more instead.
"""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import suppress

MOST_BYTES = 256 * 1024
PATIENCE_S = 0.5  # for what is left at the end
PIPE_BUF = select.PIPE_BUF


class Output:
    """`descriptor`: None: all lines are lost. Whoever calls holds the log's lock."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._waiting = bytearray()
        self.lost = 0  # lines

    @classmethod
    def of_process(cls) -> Output:
        """A process that was started without one has none, whatever is number 2 by now."""
        if sys.__stderr__ is None:
            return cls(None)
        try:
            return cls(opened(sys.__stderr__.fileno()))
        except (OSError, ValueError):  # closed since
            return cls(None)

    def write(self, line: str) -> None:
        """Take a line, whole or not at all."""
        data = line.encode("utf-8", "backslashreplace")
        if self._descriptor is None or len(self._waiting) + len(data) > MOST_BYTES:
            self.lost += 1
        else:
            self._waiting += data

    def flush(self) -> None:
        """Write what goes without waiting."""
        self._write_for(0.0)

    def close(self) -> None:
        """Write what goes in a short while, and let go of stderr."""
        self._write_for(PATIENCE_S)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write_for(self, patience_s: float) -> None:
        descriptor, until = self._descriptor, time.monotonic() + patience_s
        while descriptor is not None and self._waiting and _would_take(descriptor, until):
            try:
                sent = os.write(descriptor, self._waiting[:PIPE_BUF])
            except BlockingIOError:  # a terminal, or somebody else made it so
                return
            except OSError:  # nobody will ever read this
                self.lost += self._waiting.count(b"\n")
                self._waiting.clear()
            else:
                del self._waiting[:sent]


def opened(descriptor: int) -> int:
    """A descriptor of our own for the same, of a terminal one that never blocks."""
    if os.isatty(descriptor):
        # no name: in a container the terminal may be one of outside. Not ours: after `su`
        with suppress(OSError):
            return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return os.dup(descriptor)


def _would_take(descriptor: int, until: float) -> bool:
    """Whether a write would return at once, now or by then (monotonic)."""
    asked = select.poll()
    asked.register(descriptor, select.POLLOUT)
    return bool(asked.poll(max(until - time.monotonic(), 0.0) * 1000))
