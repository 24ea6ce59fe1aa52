"""Asking a service and waiting for what comes, in ways that cannot hang.

Every wait ends after `PATIENCE_S`: a test that waits for what never comes fails.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from runai.jobs.session import Session
from runai.schema.events import TERMINAL, Event, JobEvent
from runai.schema.requests import TextToImage

PATIENCE_S = 10.0


def ask(request_id: str, **fields: Any) -> TextToImage:
    """A small request: 64 × 64, two steps, unless told otherwise."""
    wanted = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 1, **fields}
    return TextToImage(id=request_id, **wanted)


def take(session: Session) -> Event | None:
    """`take` without the tag; None as well when nothing came in time."""
    watchdog = threading.Timer(PATIENCE_S, session.close)
    watchdog.start()
    try:
        answer = session.take()
    finally:
        watchdog.cancel()
        watchdog.join()
    return None if answer is None else answer[0]


def take_until_end(session: Session, request_id: str) -> list[JobEvent]:
    """All events of a request; what comes in between of others is dropped."""
    events: list[JobEvent] = []
    while not events or not isinstance(events[-1], TERMINAL):
        event = take(session)
        assert event is not None, f"the session ended before {request_id} was answered"
        if getattr(event, "id", None) == request_id:
            events.append(event)
    return events


def end_of(session: Session, request_id: str) -> JobEvent:
    """The last event of a request."""
    return take_until_end(session, request_id)[-1]


def ends_of(session: Session, *request_ids: str) -> dict[str, JobEvent]:
    """The last events of several requests, in whatever order they come."""
    ends: dict[str, JobEvent] = {}
    while set(ends) < set(request_ids):
        event = take(session)
        assert event is not None, f"the session ended before {request_ids} were answered"
        if isinstance(event, TERMINAL):
            assert event.id is not None
            ends[event.id] = event
    return ends


def take_all(session: Session) -> list[Event]:
    """Everything until the session ends; `finish` it before."""
    events = []
    while (event := take(session)) is not None:
        events.append(event)
    return events


def in_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """Starts a call on another thread; the returned function waits for it and gives its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()

    def join() -> Any:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the call did not return"
        return results[0]

    return join
