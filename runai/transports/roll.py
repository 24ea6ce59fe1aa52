"""Who is connected, who of them counts, and whether that is a reason to end.

A client counts from when it is admitted until it says that it is an observer. The last counted
client's leaving ends the server, unless it is to be kept alive; so does nobody's coming, where a
time is set for it.
Connections that were refused a seat never count. No I/O; knows no clock but what it is told.
"""

from __future__ import annotations

import threading
from enum import Enum
from typing import Generic, TypeVar

C = TypeVar("C")


class StopReason(Enum):
    """Why a server ended."""

    CLIENT_LEFT = "the last client left"
    NOBODY_CAME = "nobody came"
    IDLE = "nobody was there for a while"
    STOPPED = "it was told to stop"


class Roll(Generic[C]):
    """Every method may be called from any thread. Times are absolute, in seconds.

    `idle_exit_s`: end when nobody was there so long, and for no other reason; None: as said above.
    """

    def __init__(
        self,
        *,
        keep_alive: bool,
        first_client_by: float | None,
        idle_exit_s: float | None = None,
    ) -> None:
        self._keep_alive = keep_alive
        self._first_client_by = first_client_by
        self._idle_exit_s = idle_exit_s
        self._idle_since: float | None = None
        self._lock = threading.Lock()  # guards all below
        self._present: set[C] = set()
        self._counted: set[C] = set()
        self._gone: list[C] = []
        self._somebody_left = False

    def enter(self, connection: C, *, counts: bool = True) -> None:
        with self._lock:
            self._present.add(connection)
            if counts:
                self._counted.add(connection)

    def count(self, connection: C) -> None:
        """It was let in."""
        with self._lock:
            self._counted.add(connection)

    def observe(self, connection: C) -> None:
        """It only looks on: as if it had never come."""
        with self._lock:
            self._counted.discard(connection)

    def leave(self, connection: C) -> None:
        with self._lock:
            self._present.discard(connection)
            self._gone.append(connection)
            if connection in self._counted:
                self._counted.discard(connection)
                self._somebody_left = True

    def withdraw(self, connection: C) -> None:
        """It could not be served: as if it had never come."""
        with self._lock:
            self._present.discard(connection)
            self._counted.discard(connection)

    def take_gone(self) -> list[C]:
        """Those that left since the last call."""
        with self._lock:
            gone, self._gone = self._gone, []
            return gone

    def present(self) -> list[C]:
        with self._lock:
            return list(self._present)

    def time_left(self, now: float) -> float | None:
        """Until the reason to end may change by itself; None: not before somebody moves."""
        with self._lock:
            if self._idle_exit_s is not None:
                since = self._idle_since
                return None if since is None else max(since + self._idle_exit_s - now, 0.0)
            if self._first_client_by is None or self._counted or self._somebody_left:
                return None
            return max(self._first_client_by - now, 0.0)

    def reason_to_end(self, now: float) -> StopReason | None:
        """To be asked whenever somebody has moved, and when `time_left` is over."""
        with self._lock:
            if self._counted:
                self._idle_since = None
                return None
            if self._idle_exit_s is not None:
                if self._idle_since is None:
                    self._idle_since = now
                return StopReason.IDLE if now - self._idle_since >= self._idle_exit_s else None
            if self._somebody_left:
                return None if self._keep_alive else StopReason.CLIENT_LEFT
            late = self._first_client_by is not None and now >= self._first_client_by
            return StopReason.NOBODY_CAME if late else None
