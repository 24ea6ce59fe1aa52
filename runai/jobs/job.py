"""A job: one accepted request, and its life as a table.

    queued ──> running ──> succeeded
       │          ├──────> failed
       │          └──────> canceled
       └──> failed (the engine could not be had) or canceled

Rules: `Job` alone assigns its state, and only along `TRANSITIONS`. The job's last event and
its last state are one and the same step, so there is exactly one of each. It does not know
threads: whoever calls it holds the ledger's lock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from runai.errors import RunAIError
from runai.jobs.journal import picture_bytes
from runai.schema.events import Canceled, Completed, Event, Failed
from runai.schema.requests import GenerationRequest
from runai.schema.stages import Stage


class State(Enum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.FAILED, State.CANCELED}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELED: frozenset(),
}
# a last event -> the last state
ENDS: Mapping[type, State] = {
    Completed: State.SUCCEEDED,
    Failed: State.FAILED,
    Canceled: State.CANCELED,
}


@dataclass(eq=False)
class Job:
    """`key`: unique in this server. `client`: the number of the session that asked.

    `accepted_at`: by the monotonic clock. `spent_s`: by stage, with others of its batches.
    """

    key: str
    client: int
    request: GenerationRequest
    tag: object = None
    passed_over: int = 0
    accepted_at: float = field(default_factory=time.monotonic)
    steps: int = 0  # done, over all its pictures
    spent_s: dict[Stage, float] = field(default_factory=dict)
    _state: State = field(default=State.QUEUED, repr=False)

    @property
    def state(self) -> State:
        return self._state

    @property
    def picture_bytes(self) -> int:
        """Of the pictures that came with the request."""
        return picture_bytes(self.request)

    @property
    def is_over(self) -> bool:
        return not TRANSITIONS[self._state]

    def start(self) -> None:
        self._go(State.RUNNING)

    def end(self, event: Event) -> None:
        """Take the state that this last event stands for."""
        self._go(ENDS[type(event)])

    def _go(self, state: State) -> None:
        if state not in TRANSITIONS[self._state]:
            raise RunAIError(f"A job went from {self._state.value} to {state.value}.")
        self._state = state
