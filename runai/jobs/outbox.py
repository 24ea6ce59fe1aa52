"""What one client is still owed: its open jobs and the answers it has not taken yet.

Theory of operation. Answers leave in the order they came, from one ordered table of slots.
A job's progress has one slot, and its preview one per picture: a newer one replaces the
unread one where it stands, and the last event clears what it makes pointless. `accepted`,
`loading` and the last event have their own slots and are never replaced. So a job owns at
most `4 + num_images` slots however slowly its client reads; a job stays open, and counts
against the client's bound, until its last event is *taken*; a client with too many bytes of
pictures unread gets nothing new drawn; and posted answers are bounded by whoever posts.

Threads: everything here is guarded by the ledger's lock, which `readable` and `writable`
share; every method is called with it held, and none blocks but `wait_*`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from runai.jobs.job import Job
from runai.schema.events import TERMINAL, Accepted, Completed, Event, Preview, Progress

MAX_POSTED = 256
MAX_UNREAD_BYTES = 128 * 2**20
Slot = tuple[str, type, int]


@dataclass(frozen=True)
class Answer:
    """An event, what its request was tagged with, and its job if it is a job's last event."""

    event: Event
    tag: object
    ended: Job | None = None


class Outbox:
    """One client's open jobs, by request id, and its unread answers."""

    def __init__(
        self, client: int, lock: threading.Lock, max_unread_bytes: int = MAX_UNREAD_BYTES
    ) -> None:
        self.client = client
        self._max_unread_bytes = max_unread_bytes
        self.open: dict[str, Job] = {}
        self.key = b""  # of a client that can come back
        self.holder: object = None
        self.parked = False
        self.closed = False
        self.finishing = False
        self._readable = threading.Condition(lock)
        self._writable = threading.Condition(lock)
        self._slots: OrderedDict[Slot, Answer] = OrderedDict()
        self._unconfirmed: dict[str, Answer] = {}  # by request id, in the order of taking
        self._posts = 0
        self._unread_posts = 0
        self._unread_bytes = 0  # of finished pictures

    def __len__(self) -> int:
        """How many answers are unread."""
        return len(self._slots)

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has ever been in it."""
        return not (self._posts or self._slots or self.open)

    def wait_readable(self, holder: object) -> None:
        """Until there is an answer, or there will never be one for this holder."""
        self._readable.wait_for(lambda: self._slots or self.is_done or self.is_shut_for(holder))

    def wait_writable(self, holder: object) -> None:
        """Until one more answer may be posted, or there is nobody to read it."""
        self._writable.wait_for(
            lambda: self._unread_posts < MAX_POSTED or self.closed or self.is_shut_for(holder)
        )

    def is_shut_for(self, holder: object) -> bool:
        """Whether it is another's, or nobody's for now."""
        return self.parked or self.holder is not holder

    @property
    def is_behind(self) -> bool:
        """Whether so much is unread that nothing more should be drawn for this client yet."""
        return self._unread_bytes > self._max_unread_bytes

    @property
    def is_done(self) -> bool:
        """Whether nothing more will ever be taken."""
        if self.closed:
            return True
        # nobody comes back to a server that ends
        return self.finishing and not self._slots and len(self.open) == len(self._unconfirmed)

    def put(self, job: Job, event: Event) -> None:
        """Add a job's event; an unread progress or preview gives way to the newer one."""
        last = isinstance(event, TERMINAL)
        if last:
            # the progress of a job that went well stays: with it the client's bar is full
            well = isinstance(event, Completed)
            self._clear(job.key, (Preview,) if well else (Progress, Preview))
        index = event.index if isinstance(event, Preview) else 0
        self._add((job.key, type(event), index), Answer(event, job.tag, job if last else None))

    def post(self, event: Event, tag: object) -> None:
        """Add an answer that belongs to no job."""
        self._posts += 1
        self._unread_posts += 1
        self._add(("", type(event), self._posts), Answer(event, tag))

    def pop(self) -> Answer:
        """Take the oldest answer; if its job's last, that is closed, or waits to be confirmed."""
        (key, _, _), answer = self._slots.popitem(last=False)
        if answer.ended is not None and self.key:
            self._unconfirmed[answer.ended.request.id] = answer
        else:
            self._let_go(answer)
        if not key:
            self._unread_posts -= 1
            self._writable.notify()
        return answer

    def confirm(self, request_id: str) -> None:
        """The client has a last answer that was taken; it may say so more than once."""
        answer = self._unconfirmed.pop(request_id, None)
        if answer is not None:
            self._let_go(answer)

    def park(self) -> None:
        self.parked = True
        self._notify_all()

    def hand_to(self, holder: object) -> None:
        """Somebody else's from now on."""
        self.holder, self.parked = holder, False
        self._notify_all()

    def begin_again(self, welcome: Answer, position_of: Callable[[Job], int]) -> None:
        """For a new connection: what may have been lost comes first, in the order that it had.

        All that is open is `accepted` anew. What was posted, but not taken, is no more: whoever
        asked was told that the connection broke.
        """
        unread = [(slot, answer) for slot, answer in self._slots.items() if slot[0]]
        self._slots.clear()
        self._unread_posts = 0
        self.post(welcome.event, welcome.tag)
        for job in self.open.values():
            accepted = Accepted(id=job.request.id, position=position_of(job))
            self._slots[(job.key, Accepted, 0)] = Answer(accepted, job.tag)
        for answer in self._unconfirmed.values():
            assert answer.ended is not None  # noqa: S101 (for mypy: last answers alone)
            self._slots[(answer.ended.key, type(answer.event), 0)] = answer
        self._unconfirmed.clear()
        for slot, answer in unread:
            self._slots.setdefault(slot, answer)

    def finish(self) -> None:
        self.finishing = True
        self._readable.notify_all()

    def close(self) -> None:
        self.closed = True
        self.holder = None
        self._slots.clear()
        self._unconfirmed.clear()
        self.open.clear()
        self._notify_all()

    def _let_go(self, answer: Answer) -> None:
        self._unread_bytes -= _picture_bytes(answer.event)
        if answer.ended is not None:
            del self.open[answer.ended.request.id]

    def _notify_all(self) -> None:
        self._readable.notify_all()
        self._writable.notify_all()

    def _add(self, slot: Slot, answer: Answer) -> None:
        if not self.closed:
            self._unread_bytes += _picture_bytes(answer.event)
            self._slots[slot] = answer
            self._readable.notify()

    def _clear(self, key: str, kinds: tuple[type, ...]) -> None:
        unread = [slot for slot in self._slots if slot[0] == key and slot[1] in kinds]
        for slot in unread:
            del self._slots[slot]


def _picture_bytes(event: Event) -> int:
    return sum(len(p.png) for p in event.images) if isinstance(event, Completed) else 0
