"""The facade that transports talk to: sessions submit requests, one worker thread draws them.

A transport opens a `Session` per client, gives it what the client asks (`submit`, `cancel`,
`post`) on one thread and writes what `take` returns on another. Every accepted request of a
living session gets `accepted` first and exactly one of `completed`, `failed`, `canceled` last.
Knows no sockets and no torch; the engine comes from `make_engine`, on the worker thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from runai import PROTOCOL_VERSION, __version__
from runai.errors import RunAIError, ServerStopping
from runai.jobs.engine import Engine
from runai.jobs.errands import Errands, Words
from runai.jobs.ledger import Ledger, again
from runai.jobs.outbox import MAX_UNREAD_BYTES
from runai.jobs.session import Session
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
from runai.schema.requests import TASKS, Convert
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
    `preload`: a model to load before anybody asks; empty: the default one.
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
        preload: str | None = None,
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
        self._worker = Worker(self._ledger, make_engine, on_fatal, preload)
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

    def may_resume(self, secret: str | None) -> bool:
        """Whether a client of this secret is known: connected, as it seems, or waited for."""
        with self._ledger.lock:
            return secret is not None and self._ledger.returning.knows(secret)

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
            call_times=list(engine.call_times()) if engine is not None else [],
            counters=self.counters.as_event(),
            uptime_s=time.monotonic() - self._started,
        )

    def models(self, asking: Session | None = None) -> Models:
        """The catalogue; waits for an engine that is still starting, not past a session's end.

        Raises ServerStopping, or the error that the engine could not be made for.
        """
        ledger = self._ledger
        with ledger.lock:
            ledger.news.wait_for(
                lambda: (
                    ledger.engine is not None
                    or ledger.stopping
                    or (asking is not None and asking.is_over)
                )
            )
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

    @property
    def is_converting(self) -> bool:
        """Whether a conversion is under way, whoever asked for it."""
        return self._errands.is_busy

    def drain(self, grace_s: float) -> bool:
        """Take no new work, cancel what waits, and give what runs `grace_s` seconds to end.

        True if nothing had to be canceled.
        """
        ledger = self._ledger
        with ledger.open():
            ledger.stop_taking()
            canceled = ledger.cancel_queued()
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
