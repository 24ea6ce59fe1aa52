"""How long a server waits for what a client says next.

Three waits, one at a time: for a stranger's token; for the rest of a message that has begun,
however it trickles in; for anything at all. The first two have an end that nothing moves. Pure:
times are the caller's, in seconds.
"""

from __future__ import annotations

from runai.errors import TooSlow
from runai.transports.options import SocketOptions


class Patience:
    """Of one connection. `admitted`: it need not show a token (any more)."""

    def __init__(self, options: SocketOptions, now: float, *, admitted: bool) -> None:
        self._options = options
        self._came = now
        self._admitted = admitted
        self._begun: float | None = None  # when the message that is under way began
        self._last = now

    def admit(self) -> None:
        """The token was right."""
        self._admitted = True

    def hear(self, now: float, *, whole: bool, midway: bool) -> None:
        """Bytes came. `whole`: they ended a message; `midway`: there is part of one now."""
        self._last = now
        if not midway:
            self._begun = None
        elif whole or self._begun is None:
            self._begun = now

    def rest(self, now: float) -> None:
        """The client says nothing because it waits for us."""
        self._last = now

    @property
    def is_idle(self) -> bool:
        """Whether the wait is for anything at all."""
        return self._admitted and self._begun is None

    def time_left(self, now: float) -> float | None:
        """Until `complaint` is due; None: for ever."""
        until = self._until()
        return None if until is None else until - now

    def _until(self) -> float | None:
        options = self._options
        if not self._admitted:
            return self._came + options.auth_timeout_s
        if self._begun is not None:
            return self._begun + options.message_timeout_s
        return self._last + options.idle_timeout_s if options.idle_timeout_s else None

    def complaint(self) -> TooSlow:
        """What to tell a client that was waited for too long."""
        options = self._options
        if not self._admitted:
            return TooSlow(f"No token came within {options.auth_timeout_s:g} s.")
        if self._begun is not None:
            return TooSlow(f"A message took longer than {options.message_timeout_s:g} s to come.")
        return TooSlow(f"Nothing was asked for {options.idle_timeout_s:g} s.")
