"""Clients that may come back: whose connection broke, with requests open, and who have a secret.

Theory of operation. A client that names a secret is known by its digest. When its connection
breaks its outbox is *parked*: jobs go on, answers are kept, and a new connection that names the
same secret takes all of it over. Who does not come back in time is given up, and so is the
one that has been waited for longest when there are too many. What one of them may hold is
bounded as it is for everybody: open requests, and bytes of pictures.

Pure: times are the caller's, in seconds; whoever calls it holds the ledger's lock.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from runai.jobs.outbox import Outbox


class Returning:
    """`most`: how many may be parked at the same time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[bytes, Outbox] = {}
        self._parked: OrderedDict[bytes, float] = OrderedDict()  # until when, the soonest first

    def knows(self, secret: str) -> bool:
        return _key(secret) in self._known

    def outbox_of(self, secret: str, fresh: Outbox) -> Outbox:
        """What is known by this secret, parked no more; else `fresh`, known by it from now on."""
        key = _key(secret)
        self._parked.pop(key, None)
        outbox = self._known.setdefault(key, fresh)
        outbox.key = key
        return outbox

    def park(self, outbox: Outbox, until: float) -> None:
        self._parked[outbox.key] = until

    def forget(self, outbox: Outbox) -> None:
        """The client has left, or is given up."""
        if self._known.get(outbox.key) is outbox:
            del self._known[outbox.key]
            self._parked.pop(outbox.key, None)

    def late(self, now: float) -> list[Outbox]:
        """Who has not come back in time, and who has been waited for longest, of too many."""
        surplus = len(self._parked) - self._most
        return [
            self._known[key]
            for number, (key, until) in enumerate(self._parked.items())
            if until <= now or number < surplus
        ]

    def time_left(self, now: float) -> float | None:
        """Until somebody is late; None: nobody is waited for."""
        until = next(iter(self._parked.values()), None)
        return None if until is None else max(until - now, 0.0)


def _key(secret: str) -> bytes:
    """A digest, so that how long a look-up takes tells nothing of others' secrets."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
