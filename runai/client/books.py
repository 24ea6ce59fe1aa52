"""Who waits for what on one link: which inbox an event belongs into.

Rules. An event goes to the request of its id; by kind where it has none (hello, models, status);
and a `failed` without an id, with which a server answers a message that it could not read, to
whoever has waited longest for a first answer, because a server answers messages in their order.
An id may be used again once it is answered: that a request of this id is open on the server
means the new one only if something has come for it (see `kept`). If it is an old one's, the id
is in use until that is answered again.

Knows no threads: whoever calls it holds the link's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from runai.client.answers import Inbox
from runai.client.kept import GONE, NOTHING, Kept
from runai.errors import DuplicateId
from runai.schema.events import TERMINAL, ErrorBody, Event, Failed, JobEvent

REMEMBERED = 4096  # more than a server keeps of one client


@dataclass(frozen=True)
class _Waiting:
    """Who waits for a first answer: to a question of that kind, or to a request."""

    kind: str
    request_id: str | None
    inbox: Inbox

    def is_answered_by(self, event: Event) -> bool:
        if isinstance(event, Failed) and event.id is None:
            return True  # answers come in the order of the questions
        if isinstance(event, JobEvent):
            return self.request_id == event.id
        return self.kind == event.type


class Books:
    """`kept`: of a link before this one."""

    def __init__(self, kept: Kept = NOTHING) -> None:
        self.open: dict[str, Inbox] = dict(kept.inboxes)
        self._before = kept
        self._confirmed: deque[str] = deque(kept.confirmed, maxlen=REMEMBERED)
        self._unanswered: list[_Waiting] = []  # in the order of sending

    @property
    def kept(self) -> Kept:
        """What another link may go on with."""
        return Kept(dict(self.open), tuple(self._confirmed))

    @property
    def canceled(self) -> list[str]:
        """The open requests whose end was asked for."""
        return [name for name, inbox in self.open.items() if inbox.is_canceled]

    def add_question(self, kind: str) -> Inbox:
        inbox = Inbox()
        self._unanswered.append(_Waiting(kind, None, inbox))
        return inbox

    def add_request(self, request_id: str) -> Inbox:
        """Raises DuplicateId."""
        if request_id in self.open:
            raise DuplicateId(f"The request {request_id!r} is still open.", field="id")
        inbox = self.open[request_id] = Inbox()
        self._unanswered.append(_Waiting("generate", request_id, inbox))
        return inbox

    def enter(self, event: Event) -> Inbox | None:
        """Where it belongs; None if nobody waits for it. Last answers are to be confirmed."""
        waiting = self._first_answered_by(event)
        name = (waiting and waiting.request_id) or _id_of(event)
        inbox = waiting.inbox if waiting else self.open.get(name)
        if isinstance(event, TERMINAL):
            self.open.pop(name, None)
            if event.id is not None:
                self._confirmed.append(event.id)
        return inbox

    def _first_answered_by(self, event: Event) -> _Waiting | None:
        """Who gets a first answer with this event; waits no longer."""
        for waiting in self._unanswered:
            if waiting.is_answered_by(event):
                self._unanswered.remove(waiting)
                return waiting
        return None

    def go_on(self, still_open: Sequence[str]) -> list[str]:
        """What was kept, as far as the server still has it; what it has for nobody is to end."""
        before, self._before = self._before, NOTHING
        for name in before.inboxes.keys() - before.left_in(still_open).keys():
            self.open.pop(name, None)
            before.inboxes[name].put(GONE)
        nobodys = [name for name in still_open if name not in self.open]
        self.open.update({name: Inbox() for name in nobodys})
        return nobodys

    def close(self, why: ErrorBody, *, keep_requests: bool) -> None:
        """Nothing more will come: everybody who waits hears of it."""
        for waiting in self._unanswered:
            if waiting.request_id is None:
                waiting.inbox.put(why)
        self._unanswered.clear()
        if not keep_requests:
            self.kept.let_down(why)
            self.open.clear()


def _id_of(event: Event) -> str:
    return (event.id if isinstance(event, JobEvent) else None) or ""
