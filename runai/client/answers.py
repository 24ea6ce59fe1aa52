"""The events about one request, as an iterator that ends with its last answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import TracebackType

from runai.schema.events import TERMINAL, ErrorBody, Event, JobEvent


class Inbox(SimpleQueue[Event | ErrorBody]):
    """What the reading thread leaves for whoever waits: an event, or why there will be none."""

    is_answered = False  # something came
    is_canceled = False  # its end was asked for


class Answers(Iterator[JobEvent]):
    """First `Accepted`, last exactly one of `Completed`, `Failed`, `Canceled`.

    Iterating blocks until the next event and raises ConnectionLost, once, if the connection
    is lost before the last one. As a context manager it cancels what is left unfinished.
    One thread iterates; `cancel` may be called on any, and in a signal handler.
    """

    def __init__(self, request_id: str, inbox: Inbox, cancel: Callable[[str], None]) -> None:
        self.request_id = request_id
        self._inbox = inbox
        self._cancel = cancel
        self._over = False

    def __next__(self) -> JobEvent:
        if self._over:
            raise StopIteration
        event = self._inbox.get()
        if isinstance(event, ErrorBody):
            self._over = True
            raise event.to_exception()
        self._over = isinstance(event, TERMINAL)
        return event  # type: ignore[return-value]  # only events of our id come here

    def cancel(self) -> None:
        """Ask the server to end the request at the next step; its last answer still comes."""
        self._cancel(self.request_id)

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if not self._over:
            self.cancel()
