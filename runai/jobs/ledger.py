"""The books: which jobs there are, who asked for them, and what state the service is in.

Theory of operation. One lock guards all of it, including every `Job` and `Outbox`; nothing
slow happens under it and the engine is never called under it. Sessions write in requests
and cancellations; the worker reads what to do and writes in what came of it. A job is
in the queue, in `running`, or over; of those in `running` some are drawn, and their
last event is being made (`finisher`). Canceling is done at once, here: the client gets its last
event, the job leaves the books, and its key is put on `_to_drop` for the worker to clear
out of the engine before the next step. What the engine still says about it is not listened to.
What happens is counted, timed and noted for the log too (`accounts`). The log is told after
the lock is let go of: so what may begin, end or refuse a job is done within `open`.

Methods take the lock themselves, except where they say that it must be held.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager

from runai.errors import DuplicateId, QueueFull, RunAIError, ServerStopping
from runai.jobs.accounts import Accounts
from runai.jobs.engine import Engine
from runai.jobs.job import Job, State
from runai.jobs.outbox import Answer, Outbox
from runai.jobs.queue import FairQueue, choose
from runai.jobs.returning import Returning
from runai.schema.events import (
    TERMINAL,
    Accepted,
    Canceled,
    ErrorBody,
    Failed,
    JobEvent,
    Loading,
    ServerState,
)
from runai.schema.limits import Limits
from runai.schema.requests import GenerationRequest
from runai.schema.stages import Spent

LOOK_AHEAD = 256  # of those who wait, for one whose model is warm
MAX_QUEUED_BYTES = 2**30  # of pictures that came with requests which still wait


class Ledger:
    """See the module's theory of operation."""

    def __init__(
        self,
        max_queued: int,
        max_open: int,
        max_unread_bytes: int,
        max_parked: int,
        *,
        log_prompts: bool = False,
    ) -> None:
        # who hands in a request waits for this one first: with hundreds waiting for the other, each
        # turn of which may cost a wait for Python's own lock, a mere question would take a second
        self.intake = threading.Lock()
        self.lock = threading.Lock()
        self.news = threading.Condition(self.lock)  # an engine or a client went, or a job ended
        self._work = threading.Condition(self.lock)  # the worker has something to do
        self._max_queued = max_queued
        self._max_open = max_open
        self._max_unread_bytes = max_unread_bytes
        self._numbers = itertools.count(1)
        self.outboxes: dict[int, Outbox] = {}
        self.returning = Returning(max_parked)
        self.queue = FairQueue()
        self.running: dict[str, Job] = {}
        self._drawn: set[str] = set()  # keys, of those that run
        self._to_drop: list[str] = []
        self.engine: Engine | None = None
        self.accounts = Accounts(log_prompts=log_prompts)
        self.loading = ""  # the model that is being loaded
        self.fatal: RunAIError | None = None
        self.stopping = False  # no new work
        self.quitting = False  # no work at all: the worker is to end

    @contextmanager
    def open(self) -> Iterator[None]:
        """The lock, held; what is noted meanwhile is in the log after it."""
        try:
            with self.lock:
                yield
        finally:
            self.accounts.publish()

    # For sessions and the service; the lock is held.

    def enter(self) -> Outbox:
        outbox = Outbox(next(self._numbers), self.lock, self._max_unread_bytes)
        outbox.finishing = self.quitting
        self.outboxes[outbox.client] = outbox
        return outbox

    def leave(self, outbox: Outbox) -> None:
        for job in list(outbox.open.values()):
            self.cancel(job)
        outbox.close()
        self.returning.forget(outbox)
        self.outboxes.pop(outbox.client, None)
        self.news.notify_all()

    def park(self, outbox: Outbox, until: float) -> None:
        """Wait for a client to come back; one that cannot, or need not, leaves."""
        if not (outbox.key and outbox.open):
            self.leave(outbox)
            return
        outbox.park()
        self.returning.park(outbox, until)
        self.news.notify_all()

    def resume(self, fresh: Outbox, secret: str) -> Outbox:
        """The outbox that this secret's client has: what it left, or `fresh`."""
        outbox = self.returning.outbox_of(secret, fresh)
        if outbox is not fresh:
            self.leave(fresh)
        return outbox

    def position(self, job: Job) -> int:
        """How many wait before it; 0 as well for one that waits no more."""
        return self.queue.position(job) if job.state is State.QUEUED else 0

    def add(self, outbox: Outbox, request: GenerationRequest, tag: object, limits: Limits) -> None:
        """Accept a request; raises a RunAIError that says why it is not taken."""
        try:
            limits.check(request)
            self._check(outbox, request)
        except RunAIError as error:
            self.accounts.refused(outbox.client, error, request)
            raise
        job = Job(str(next(self._numbers)), outbox.client, request, tag)
        outbox.open[request.id] = job
        self.queue.push(job)
        position = self.queue.position(job)
        outbox.put(job, Accepted(id=request.id, position=position))
        self._work.notify()
        self.accounts.accepted(job, position)

    def _check(self, outbox: Outbox, request: GenerationRequest) -> None:
        if self.fatal is not None:
            raise again(self.fatal)
        if self.stopping or outbox.finishing or outbox.closed:
            raise ServerStopping("No new requests are taken any more.")
        if request.id in outbox.open:
            raise DuplicateId(f"The id {request.id!r} is still in use.", field="id")
        if len(outbox.open) >= self._max_open:
            raise QueueFull(f"{self._max_open} requests of this client are still open.")
        if len(self.queue) >= self._max_queued:
            raise QueueFull(f"{self._max_queued} requests are waiting already.")
        if self.queue.picture_bytes > MAX_QUEUED_BYTES:
            raise QueueFull(f"Waiting requests hold {MAX_QUEUED_BYTES // 2**20} MiB of pictures.")

    def cancel(self, job: Job) -> None:
        """End a job that is not over yet; does nothing to one that is."""
        if job.is_over:
            return
        if job.key in self.running:
            self._to_drop.append(job.key)
            self._work.notify()
        self._end(job, Canceled(id=job.request.id))

    def cancel_queued(self) -> int:
        """How many were canceled."""
        waiting = self.queue.order()
        for job in waiting:
            self.cancel(job)
        return len(waiting)

    def cancel_running(self) -> int:
        """How many were canceled."""
        running = list(self.running.values())
        for job in running:
            self.cancel(job)
        return len(running)

    def stop_taking(self) -> None:
        """No new work; who waits for the engine to come waits no more."""
        self.stopping = True
        self.news.notify_all()

    def quit(self) -> None:
        """Cancel everything and let the worker end; clients may take what they are owed."""
        self.stopping = self.quitting = True
        self.cancel_queued()
        self.cancel_running()
        for outbox in self.outboxes.values():
            outbox.finish()
        self._work.notify()
        self.news.notify_all()

    @property
    def has_work(self) -> bool:
        if self.quitting or self._to_drop or len(self.running) > len(self._drawn):
            return True
        return any(not self.outboxes[client].is_behind for client in self.queue.clients)

    def _newcomers(self) -> Iterable[Job]:
        """The first jobs of those who have none running, while those who have hold two each on an
        average: so a flood that came first keeps nobody out, and what runs at most doubles.
        """
        drawing = self._drawing()
        served = {job.client for job in drawing}
        if 2 * len(served) > len(drawing):
            return []
        return (job for job in self.queue.firsts if job.client not in served)

    def _drawable(self, jobs: Iterable[Job]) -> list[Job]:
        """Of those who wait, in the fair order, without clients that do not read what they have.

        Of thousands the first ones are enough to choose from; everybody waits meanwhile.
        """
        behind = {client for client in self.queue.clients if self.outboxes[client].is_behind}
        drawable = (job for job in jobs if job.client not in behind)
        return list(itertools.islice(drawable, LOOK_AHEAD))

    def _drawing(self) -> list[Job]:
        return [job for key, job in self.running.items() if key not in self._drawn]

    def take_answer(self, outbox: Outbox) -> Answer:
        """The oldest unread answer of a client that has one."""
        with self._catching_up(outbox):
            return outbox.pop()

    def confirm(self, outbox: Outbox, request_id: str) -> None:
        """The client has got this last answer."""
        with self._catching_up(outbox):
            outbox.confirm(request_id)

    @contextmanager
    def _catching_up(self, outbox: Outbox) -> Iterator[None]:
        """Within, the client may have read so much that it is drawn for again."""
        was_behind = outbox.is_behind
        yield
        if was_behind and not outbox.is_behind:
            self._work.notify()

    @property
    def state(self) -> ServerState:
        if self.stopping:
            return "stopping"
        if self.engine is None:
            return "starting"
        return "loading" if self.loading else "ready"

    def _end(self, job: Job, event: JobEvent) -> None:
        if job.key in self.running:
            del self.running[job.key]
            self._drawn.discard(job.key)
        else:
            self.queue.remove(job)
        job.end(event)
        self._tell(job, event)
        self.accounts.ended(job, event)
        self.news.notify_all()

    def _tell(self, job: Job, event: JobEvent) -> None:
        outbox = self.outboxes.get(job.client)
        if outbox is not None:
            outbox.put(job, event)

    # For the worker.

    def engine_came(self, engine: Engine) -> None:
        with self.lock:
            self.engine = engine
            self.news.notify_all()

    def engine_went(self, error: RunAIError | None) -> None:
        """No more drawing: what is left fails with `error`, or is canceled without one."""
        with self.open():
            self.engine, self.fatal, self.stopping = None, error, True
            for job in [*self.queue.order(), *self.running.values()]:
                self._end(job, _last_event(job, error))
            self.news.notify_all()

    def wait_for_work(self, timeout_s: float | None) -> bool:
        """Block until there is something to do; False when there was nothing in that time."""
        with self.lock:
            return self._work.wait_for(lambda: self.has_work, timeout_s)

    def take_dropped(self) -> list[str]:
        """The keys of running jobs that were canceled since the last call."""
        with self.lock:
            dropped, self._to_drop = self._to_drop, []
            return dropped

    def take_next(
        self,
        is_warm: Callable[[Job], bool],
        *,
        newcomers_only: bool = False,
        served: Container[int] = (),
    ) -> Job | None:
        """The next job to run, marked as running; None if none waits.

        `newcomers_only`: there is no room but for who has nothing running while others have much.
        `served`: the clients of whom nothing more is taken while others draw.
        """
        while True:
            with self.lock:
                jobs = self._newcomers() if newcomers_only else self.queue
                if len({job.client for job in self._drawing()}) > 1:
                    jobs = (job for job in jobs if job.client not in served)
                order = self._drawable(jobs)
            if not order:
                return None
            job = choose(order, is_warm)
            with self.open():
                if not job.is_over:  # canceled while the engine was asked
                    self.queue.take(job)
                    job.start()
                    self.running[job.key] = job
                    self.accounts.started(job)
                    return job

    def set_loading(self, model: str, job: Job | None = None) -> None:
        """`job`: who waits for it, if anybody does."""
        with self.lock:
            self.loading = model
            if job is not None and not job.is_over:
                self._tell(job, Loading(id=job.request.id, model=model))

    def set_loaded(self) -> None:
        with self.lock:
            self.loading = ""

    def deliver(self, events: Sequence[tuple[str, JobEvent]]) -> None:
        """Write in what a step gave; events of jobs that are over meanwhile are dropped."""
        with self.open():
            for key, event in events:
                job = self.running.get(key)
                if job is None:
                    continue
                if isinstance(event, TERMINAL):
                    self._end(job, event)
                else:
                    self.accounts.told(job, event)
                    self._tell(job, event)

    def timed(self, all_spent: Sequence[Spent]) -> None:
        """Write in how long the engine took for what."""
        with self.lock:
            self.accounts.timed(all_spent, self.running)

    def fail(self, jobs: Sequence[Job], error: RunAIError) -> None:
        """The jobs' failure; those that are over meanwhile are left alone."""
        with self.open():
            for job in jobs:
                if not job.is_over:
                    self._end(job, _last_event(job, error))

    def drawing_jobs(self) -> list[Job]:
        """Those that the engine has."""
        with self.lock:
            return self._drawing()

    def set_drawn(self, key: str) -> None:
        """The engine is done with it, but its last event is not made yet."""
        with self.lock:
            if key in self.running:
                self._drawn.add(key)

    # For the finisher.

    def drawn_job(self, key: str) -> Job | None:
        """Whose last event it is, unless nobody wants it any more."""
        with self.lock:
            return self.running.get(key)


def again(error: RunAIError) -> RunAIError:
    """The same error to raise once more: one instance must not be raised by many threads."""
    return type(error)(error.message, hint=error.hint, field=error.field)


def _last_event(job: Job, error: RunAIError | None) -> JobEvent:
    if error is None:
        return Canceled(id=job.request.id)
    return Failed(id=job.request.id, error=ErrorBody.of(error))
