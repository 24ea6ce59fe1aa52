"""A hypothesis state machine over a client whose connections break: no last answer is lost or
comes twice, however submitting, drawing, taking, confirming, breaking, coming back, giving up
and canceling follow each other.

What travels is played too: an event that was taken and a confirmation that was sent arrive later,
or are lost with the connection. The client does as `runai.client` does: it hands out the first
last answer of a request, and confirms every one.
"""

from __future__ import annotations

import math
from collections import deque

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runai.errors import QueueFull
from runai.jobs.session import Session
from runai.schema.events import TERMINAL, Accepted, Event, HelloEvent
from runai.testing.scripted import ScriptedEngine
from tests.jobs.asking import ask
from tests.jobs.test_machine import CAPACITY, MAX_OPEN, ByHand

SECRET = "a secret of the client's"


class Named(ByHand):
    """Its time stands still: who is waited for is given up when the test says so."""

    def give_up(self) -> None:
        with self._ledger.lock:
            for outbox in self._ledger.returning.late(math.inf):
                self._ledger.leave(outbox)

    def unread_of(self, session: Session) -> int:
        with self._ledger.lock:
            return len(session._outbox)


class Returns(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.service = Named(ScriptedEngine(capacity=CAPACITY))
        self.number = 0
        self.accepted: set[str] = set()
        self.waiting: set[str] = set()  # those that the caller has no last answer to
        self.answered: list[str] = []
        self.given_up: set[str] = set()
        self.kept: set[str] = set()  # what the server must still have open
        self.connect()

    def connect(self) -> None:
        self.coming: deque[Event] = deque()
        self.going: deque[str] = deque()  # confirmations
        self.session = self.service.open_session()
        self.session.resume(SECRET, self.service.hello(1))
        answer = self.session.take()
        assert answer is not None and isinstance(answer[0], HelloEvent)
        assert set(answer[0].open) == self.kept
        self.given_up |= self.waiting - self.kept
        self.waiting &= self.kept
        self.is_parked = False

    @precondition(lambda self: not self.is_parked)
    @rule(steps=st.integers(1, 3), images=st.integers(1, 2))
    def submit(self, steps: int, images: int) -> None:
        self.number += 1
        name = f"r{self.number}"
        try:
            self.session.submit(ask(name, num_inference_steps=steps, num_images=images))
        except QueueFull:
            assert len(self.kept) == MAX_OPEN
        else:
            self.accepted.add(name)
            self.waiting.add(name)
            self.kept.add(name)

    @rule(turns=st.integers(1, 4))
    def work(self, turns: int) -> None:
        for _ in range(turns):
            self.service.turn()

    @precondition(lambda self: not self.is_parked)
    @rule(count=st.integers(1, 9))
    def take(self, count: int) -> None:
        for _ in range(min(count, self.service.unread_of(self.session))):
            answer = self.session.take()
            assert answer is not None
            self.coming.append(answer[0])

    @rule(count=st.integers(1, 9))
    def arrive(self, count: int) -> None:
        for _ in range(min(count, len(self.coming))):
            event = self.coming.popleft()
            name = event.id  # type: ignore[union-attr]
            if isinstance(event, TERMINAL):
                assert name is not None
                self.going.append(name)
                if name in self.waiting:
                    self.waiting.remove(name)
                    self.answered.append(name)
                else:
                    assert name in self.answered
            else:
                assert name not in self.answered or isinstance(event, Accepted)

    @rule(count=st.integers(1, 9))
    def confirm(self, count: int) -> None:
        for _ in range(min(count, len(self.going))):
            name = self.going.popleft()
            self.session.confirm(name)
            if not self.is_parked:
                self.kept.discard(name)

    @rule(which=st.integers(0, 9))
    def cancel(self, which: int) -> None:
        if self.waiting:
            self.session.cancel(sorted(self.waiting)[which % len(self.waiting)])

    @precondition(lambda self: not self.is_parked)
    @rule()
    def break_off(self) -> None:
        """The server has noticed; what was on its way is lost."""
        self.coming.clear()
        self.going.clear()
        self.session.park()
        assert self.session.take() is None
        self.is_parked = True

    @rule()
    def come_back(self) -> None:
        """Whether the server has noticed or not."""
        self.connect()

    @precondition(lambda self: self.is_parked)
    @rule()
    def give_up(self) -> None:
        self.service.give_up()
        assert self.service.status().queued == self.service.status().running == 0
        self.kept.clear()

    @invariant()
    def nobody_hears_twice(self) -> None:
        assert len(self.answered) == len(set(self.answered))
        assert self.waiting.isdisjoint(self.answered) and self.given_up.isdisjoint(self.answered)

    @invariant()
    def the_bound_holds(self) -> None:
        assert len(self.kept) <= MAX_OPEN
        assert self.service.status().clients <= 1

    def teardown(self) -> None:
        """Nothing is lost: in the end every request was answered or given up with its client."""
        for _ in range(200):
            if not self.service.turn():
                break
        self.come_back()
        self.take(1000)
        self.arrive(1000)
        self.confirm(1000)
        assert self.waiting == set() and self.kept == set()
        assert {*self.answered, *self.given_up} == self.accepted
        self.session.close()
        assert self.service.status().clients == 0
        self.service.stop()


TestReturns = Returns.TestCase
TestReturns.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
