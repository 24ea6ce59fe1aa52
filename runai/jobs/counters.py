"""What is only ever counted up, since the start. Any thread may count.

The names are the fields of `runai.schema.events.Counters`. Those with a code are counted apart
for each code, of which there are as many as in `runai.errors`: clients cannot make up more.
The lock guards the counts; nothing else is done under it, so it may be taken under any other.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, Literal

from runai.schema import events

Name = Literal[
    "accepted",
    "completed",
    "canceled",
    "pictures",
    "steps",
    "connections",
    "connections_refused",
    "received_bytes",
    "sent_bytes",
]
NameOfErrors = Literal["failed", "refused"]


class Counters:
    """Counts from zero."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._errors: dict[NameOfErrors, Counter[str]] = {"failed": Counter(), "refused": Counter()}

    def count(self, name: Name, times: int = 1) -> None:
        with self._lock:
            self._counts[name] += times

    def count_error(self, name: NameOfErrors, code: str) -> None:
        """One more of the errors with this code."""
        with self._lock:
            self._errors[name][code] += 1

    def as_event(self) -> events.Counters:
        with self._lock:
            said: dict[str, Any] = {**self._counts}
            said |= {name: dict(codes) for name, codes in self._errors.items()}
        return events.Counters(**said)
