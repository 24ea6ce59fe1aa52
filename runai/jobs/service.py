"""The facade that transports talk to: sessions submit requests, one worker thread draws them.

A transport opens a `Session` per client, gives it what the client asks (`submit`, `cancel`,
`post`) on one thread and writes what `take` returns on another. Every accepted request of a
living session gets `accepted` first and exactly one of `completed`, `failed`, `canceled` last.

A client that names a secret can come back: its session is parked when its connection breaks, and
another connection's session resumes it (see `outbox` and `returning`). Then the broken one's
session has no effect any more. Time is watched by whoever waits for connections: see `expire`.
Knows no sockets and no torch; the engine comes from `make_engine`, on the worker thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from runai import PROTOCOL_VERSION, __version__
from runai.errors import ConnectionLost, InvalidField, RunAIError, ServerStopping
from runai.jobs.engine import Engine
from runai.jobs.errands import Errands, Words
from runai.jobs.ledger import Ledger, again
from runai.jobs.outbox import MAX_UNREAD_BYTES, Answer, Outbox
from runai.jobs.worker import Worker
from runai.schema.events import (
    Capabilities,
    Event,
    HelloEvent,
    Holdings,
    Models,
    ServerState,
    Status,
)
from runai.schema.limits import Limits
from runai.schema.requests import TASKS, Convert, GenerationRequest
from runai.schema.samplers import SAMPLERS


class Service:
    """Takes requests from any number of sessions and answers all of them.

    `make_engine` is called once, on the worker thread. If it raises, or the engine breaks,
    every request fails with that error, and `on_fatal` is called with it, or with one that
    quotes no request, on the worker thread, outside of all locks; it may not call `stop`,
    which waits for that thread.
    `max_open_per_session` bounds the requests whose last answer a client has not taken, and
    nothing more is drawn for one with more than `max_unread_bytes` of pictures untaken.
    Clients whose connection broke are waited for `resume_s` (0: not at all), and no more than
    `max_parked` of them at the same time.
    `conversion`: the command that converts a model; None: clients may not ask for it.
    `log_prompts`: the log shows prompts; otherwise nothing of what clients wrote is in it but
    ids, and names of models and samplers. `counters`: for transports too.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        *,
        max_queued: int = 256,
        max_open_per_session: int = 64,
        max_unread_bytes: int = MAX_UNREAD_BYTES,
        resume_s: float = 30.0,
        max_parked: int = 32,
        on_fatal: Callable[[RunAIError], None] = lambda error: None,
        conversion: Words | None = None,
        log_prompts: bool = False,
    ) -> None:
        self.limits = limits
        self.resume_s = resume_s
        self._ledger = Ledger(
            max_queued,
            max_open_per_session,
            max_unread_bytes,
            max_parked,
            log_prompts=log_prompts,
        )
        self.counters = self._ledger.accounts.counters
        self._worker = Worker(self._ledger, make_engine, on_fatal)
        self._errands = Errands(conversion)
        self._started = time.monotonic()

    def start(self) -> None:
        """Start the worker thread. Call once; `stop` ends it."""
        self._worker.start()

    def open_session(
        self, name: str = "", on_replaced: Callable[[], None] = lambda: None
    ) -> Session:
        """A session for a new client; `close` it when the client is gone.

        `on_replaced` is called when the client has come back on another connection.
        """
        with self._ledger.lock:
            outbox = self._ledger.enter()
            return Session(self._ledger, outbox, self.limits, name, self.resume_s, on_replaced)

    def expire(self) -> float | None:
        """Give up clients that have not come back in time.

        In how many seconds to call again; None: nobody is waited for. Whoever waits for
        connections does so, and again after each that has ended.
        """
        now = time.monotonic()
        with self._ledger.open():
            for outbox in self._ledger.returning.late(now):
                self._ledger.leave(outbox)
            return self._ledger.returning.time_left(now)

    @property
    def state(self) -> ServerState:
        with self._ledger.lock:
            return self._ledger.state

    def hello(self, max_message_bytes: int) -> HelloEvent:
        """What this server can do; the size of a message is the transport's to bound."""
        capabilities = Capabilities(
            tasks=list(TASKS),
            samplers=list(SAMPLERS),
            max_message_bytes=max_message_bytes,
            max_json_depth=self.limits.max_json_depth,
            max_input_pixels=self.limits.max_input_pixels,
            max_pixels=self.limits.max_pixels,
            max_steps=self.limits.max_steps,
            max_images=self.limits.max_images,
            resume_s=self.resume_s,
        )
        return HelloEvent(
            server_version=__version__,
            protocol=PROTOCOL_VERSION,
            state=self.state,
            capabilities=capabilities,
        )

    def status(self) -> Status:
        """What the server is doing now; does not wait."""
        ledger = self._ledger
        with ledger.lock:
            engine, state, detail = ledger.engine, ledger.state, ledger.loading
            clients, queued, running = len(ledger.outboxes), len(ledger.queue), len(ledger.running)
            timings = list(ledger.accounts.timings.as_events())
        return Status(
            state=state,
            detail=detail,
            clients=clients,
            queued=queued,
            running=running,
            loaded_models=engine.loaded_models() if engine is not None else [],
            memory=engine.newest_memory() if engine is not None else None,
            holdings=engine.holdings() if engine is not None else Holdings(),
            timings=timings,
            counters=self.counters.as_event(),
            uptime_s=time.monotonic() - self._started,
        )

    def models(self) -> Models:
        """The catalogue; waits for an engine that is still starting.

        Raises ServerStopping, or the error that the engine could not be made for.
        """
        ledger = self._ledger
        with ledger.lock:
            ledger.news.wait_for(lambda: ledger.engine is not None or ledger.stopping)
            engine, fatal = ledger.engine, ledger.fatal
        if fatal is not None:
            raise again(fatal)
        if engine is None:
            raise ServerStopping("The server is stopping.")
        return Models(models=engine.models(), unusable=engine.unusable())

    def convert(self, asked: Convert, answer: Callable[[Event], None]) -> None:
        """Start a conversion; `answer` gets its one event, on another thread.

        Raises NotOffered where that is not allowed, QueueFull while another one is under way.
        """
        self._errands.start(asked, answer)

    def drain(self, grace_s: float) -> bool:
        """Take no new work, cancel what waits, and give what runs `grace_s` seconds to end.

        True if nothing had to be canceled.
        """
        ledger = self._ledger
        with ledger.open():
            ledger.stopping = True
            canceled = ledger.cancel_queued()
            ledger.news.notify_all()
            ledger.news.wait_for(lambda: not ledger.running, grace_s)
            return canceled + ledger.cancel_running() == 0

    def stop(self) -> None:
        """Cancel what is left, close the engine, wait for the worker. Idempotent.

        Sessions stay open until what they are owed is taken; then `take` gives None.
        """
        with self._ledger.open():
            self._ledger.quit()
        self._errands.stop()
        self._worker.join()


class Session:
    """One connection's side of the service. Every method may be called from any thread.

    Once its client has come back on another connection nothing here has any effect.
    """

    def __init__(
        self,
        ledger: Ledger,
        outbox: Outbox,
        limits: Limits,
        name: str,
        resume_s: float,
        on_replaced: Callable[[], None],
    ) -> None:
        self.name = name
        self._ledger = ledger
        self._outbox = outbox
        self._limits = limits
        self._resume_s = resume_s
        self._on_replaced = on_replaced
        outbox.hand_to(self)

    def resume(self, secret: str, welcome: HelloEvent, tag: object = None) -> None:
        """Take up what this secret's client has left open, or be known by it from now on.

        The first thing to be taken afterwards is `welcome`, completed by what is open. Raises
        InvalidField unless nothing was asked before.
        """
        with self._ledger.lock:
            fresh = self._outbox
            if not fresh.is_fresh or fresh.key:
                raise InvalidField(
                    "A session is named in a connection's first message.", field="session"
                )
            outbox = self._ledger.resume(fresh, secret)
            replaced, self._outbox = outbox.holder, outbox
            outbox.hand_to(self)
            welcome = welcome.model_copy(update={"open": list(outbox.open)})
            outbox.begin_again(Answer(welcome, tag), self._ledger.position)
        if isinstance(replaced, Session) and replaced is not self:
            replaced._on_replaced()

    @property
    def _is_replaced(self) -> bool:
        return not self._outbox.closed and self._outbox.holder is not self

    def submit(self, request: GenerationRequest, tag: object = None) -> None:
        """Hand in a request; `tag` comes back with each of its events.

        Raises LimitError (among them QueueFull), DuplicateId or ServerStopping; else `accepted`
        is the request's first event.
        """
        with self._ledger.open():
            if self._is_replaced:
                raise ConnectionLost("The client has come back on another connection.")
            self._ledger.add(self._outbox, request, tag, self._limits)

    def refused(self, error: RunAIError) -> None:
        """Count and log that a message could not be understood; `submit` does so for requests."""
        with self._ledger.open():
            self._ledger.accounts.refused(self._outbox.client, error, None)

    def confirm(self, request_id: str) -> None:
        """The client has got this last answer; only who can come back need say so."""
        with self._ledger.lock:
            if not self._is_replaced:
                self._ledger.confirm(self._outbox, request_id)

    def cancel(self, request_id: str) -> bool:
        """End a request now; False if there is none of this id that is unanswered."""
        with self._ledger.open():
            job = None if self._is_replaced else self._outbox.open.get(request_id)
            if job is None or job.is_over:
                return False
            self._ledger.cancel(job)
            return True

    def is_open(self, request_id: str) -> bool:
        """Whether a request of this id has not had its last answer taken yet."""
        with self._ledger.lock:
            return request_id in self._outbox.open

    @property
    def is_busy(self) -> bool:
        """Whether there is any request whose last answer has not been taken."""
        with self._ledger.lock:
            return bool(self._outbox.open)

    def cancel_all(self) -> None:
        with self._ledger.open():
            for job in [] if self._is_replaced else list(self._outbox.open.values()):
                self._ledger.cancel(job)

    def post(self, event: Event, tag: object = None) -> None:
        """Answer the client directly, in order with its jobs' events.

        Blocks while too many posted answers are unread: a client that does not read is not
        read from. Returns at once when there is nobody to read it any more.
        """
        with self._ledger.lock:
            self._outbox.wait_writable(self)
            if not self._outbox.is_shut_for(self):
                self._outbox.post(event, tag)

    def take(self) -> tuple[Event, object] | None:
        """The next event and its request's tag; blocks until there is one.

        None when the session is closed, parked or replaced, or finished and everything is taken.
        """
        with self._ledger.open():
            outbox = None
            while outbox is not self._outbox:  # it may be resumed meanwhile
                outbox = self._outbox
                outbox.wait_readable(self)
            if outbox.is_shut_for(self):
                return None
            if outbox.is_done:
                self._ledger.leave(outbox)
                return None
            answer = self._ledger.take_answer(outbox)
            return answer.event, answer.tag

    def finish(self) -> None:
        """No new requests: `take` gives None once all that is open is answered and taken."""
        with self._ledger.open():
            if not self._is_replaced:
                self._outbox.finish()

    def park(self) -> None:
        """The connection is of no use any more: end `take` and `post`.

        What is open goes on for a client that can come back, for some time, unless `close`
        follows because it has left; for any other it is canceled. Idempotent.
        """
        with self._ledger.open():
            if not (self._is_replaced or self._outbox.closed or self._outbox.parked):
                self._ledger.park(self._outbox, time.monotonic() + self._resume_s)

    def close(self) -> None:
        """The client is gone: cancel its jobs, end `take` and `post`. Idempotent."""
        with self._ledger.open():
            if not self._is_replaced:
                self._ledger.leave(self._outbox)
