"""One connection's side of the service: what a client asks, and what it is answered.

A client that names a secret can come back: its session is parked when its connection breaks, and
another connection's session resumes it (see `outbox` and `returning`). Then the broken one's
session has no effect any more. Time is watched by whoever waits for connections: see
`Service.expire`. Knows no sockets.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from runai.errors import ConnectionLost, InvalidField, RunAIError
from runai.jobs.ledger import Ledger
from runai.jobs.outbox import Answer, Outbox
from runai.schema.events import Event, HelloEvent
from runai.schema.limits import Limits
from runai.schema.requests import GenerationRequest


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
    def is_over(self) -> bool:
        """Whether nobody reads here any more; with the ledger's lock held."""
        return self._outbox.is_shut_for(self)

    @property
    def _is_replaced(self) -> bool:
        return not self._outbox.closed and self._outbox.holder is not self

    def submit(self, request: GenerationRequest, tag: object = None) -> None:
        """Hand in a request; `tag` comes back with each of its events.

        Raises LimitError (among them QueueFull), DuplicateId or ServerStopping; else `accepted`
        is the request's first event.
        """
        with self._ledger.intake, self._ledger.open():
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
