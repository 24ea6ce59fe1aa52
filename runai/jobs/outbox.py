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
from dataclasses import dataclass

from runai.jobs.job import Job
from runai.schema.events import TERMINAL, Completed, Event, Preview, Progress

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
        self.closed = False
        self.finishing = False
        self._readable = threading.Condition(lock)
        self._writable = threading.Condition(lock)
        self._slots: OrderedDict[Slot, Answer] = OrderedDict()
        self._posts = 0
        self._unread_posts = 0
        self._unread_bytes = 0  # of finished pictures

    def __len__(self) -> int:
        """How many answers are unread."""
        return len(self._slots)

    def wait_readable(self) -> None:
        """Until there is an answer, or there will never be one."""
        self._readable.wait_for(lambda: self._slots or self.is_done)

    def wait_writable(self) -> None:
        """Until one more answer may be posted, or the client is gone."""
        self._writable.wait_for(lambda: self._unread_posts < MAX_POSTED or self.closed)

    @property
    def is_behind(self) -> bool:
        """Whether so much is unread that nothing more should be drawn for this client yet."""
        return self._unread_bytes > self._max_unread_bytes

    @property
    def is_done(self) -> bool:
        """Whether nothing more will ever be taken."""
        return self.closed or (self.finishing and not self.open and not self._slots)

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
        """Take the oldest answer; its job is closed if this was the last."""
        (key, _, _), answer = self._slots.popitem(last=False)
        self._unread_bytes -= _picture_bytes(answer.event)
        if answer.ended is not None:
            del self.open[answer.ended.request.id]
        if not key:
            self._unread_posts -= 1
            self._writable.notify()
        return answer

    def finish(self) -> None:
        self.finishing = True
        self._readable.notify_all()

    def close(self) -> None:
        self.closed = True
        self._slots.clear()
        self.open.clear()
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
