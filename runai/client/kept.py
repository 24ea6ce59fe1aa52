"""What a link that broke leaves for the next one: who waits, and which answers it has confirmed.

An id may be used again once it is answered. Where its last confirmation may have been lost, that
the server has a request of this id means the new one only if something has come for that: else
it may as well be the old one, and its answer must not be given out for the new one's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from runai.client.answers import Inbox
from runai.errors import ConnectionLost
from runai.schema.events import ErrorBody

GONE = ErrorBody.of(
    ConnectionLost(
        "The request was not there any more when the connection came back: it had not arrived, "
        "or the server has given it up.",
        hint="Send it again if it is still wanted.",
    )
)


@dataclass(frozen=True)
class Kept:
    """What a broken link leaves: inboxes by request id, and the last answers it has confirmed."""

    inboxes: dict[str, Inbox] = field(default_factory=dict)
    confirmed: Iterable[str] = ()

    def left_in(self, still_open: Iterable[str]) -> dict[str, Inbox]:
        """The inboxes of requests that the server has, when these ids are open there."""
        surely = set(still_open)
        unsure = surely & set(self.confirmed)
        return {
            name: inbox
            for name, inbox in self.inboxes.items()
            if name in surely and (inbox.is_answered or name not in unsure)
        }

    def let_down(self, why: ErrorBody) -> None:
        """Tell everybody that no more will come."""
        for inbox in self.inboxes.values():
            inbox.put(why)


NOTHING = Kept()
