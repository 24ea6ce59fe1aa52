"""A hypothesis state machine over the service: any order of anything, and the promises hold.

The worker's loop is run by hand, one turn at a time on the test's own thread: nothing depends
on timing, and what fails can be shrunk. (With the real thread: test_service, test_strangers.)
A take cannot block either: each client posts a marker first, and takes until it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runai.errors import DuplicateId, ModelBroken, QueueFull, RunAIError, ServerStopping
from runai.jobs.finisher import MOST_WAITING
from runai.jobs.job import TRANSITIONS, Job, State
from runai.jobs.queue import MAX_PASSED_OVER
from runai.jobs.service import Service
from runai.jobs.session import Session
from runai.schema.events import (
    TERMINAL,
    Accepted,
    Canceled,
    Completed,
    Failed,
    Models,
    Progress,
)
from runai.testing.scripted import Fault, Gate, ScriptedEngine
from tests.jobs.asking import ask

MAX_QUEUED, MAX_OPEN, CAPACITY = 6, 4, 2
MODELS = ("", "", "other", "other", "nowhere")
ERRORS = (ModelBroken("broken"), ValueError("a bug"), MemoryError())


class Doorway(Gate):
    """In the middle of a step or of a loading, something else happens."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: list[Callable[[], None]] = []

    def enter(self) -> None:
        if self.meanwhile:
            self.meanwhile.pop()()


class ByHand(Service):
    """A service whose worker moves only when it is told to."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__(lambda: engine, max_queued=MAX_QUEUED, max_open_per_session=MAX_OPEN)
        self.engine = engine
        self._ledger.engine_came(engine)

    def turn(self) -> bool:
        with self._ledger.lock:
            if not self._ledger.has_work:
                return False
        while self._worker.finisher.waiting > MOST_WAITING - CAPACITY:
            self.finish()  # the worker would wait for it
        self._worker.turn(self.engine)
        return True

    def finish(self) -> bool:
        return self._worker.finisher.waiting > 0 and self._worker.finisher.finish_next()

    @property
    def drawn(self) -> int:
        return len(self._ledger.running) - len(self._ledger.drawing_jobs())

    def jobs(self) -> list[Job]:
        open_ = [job for outbox in self._ledger.outboxes.values() for job in outbox.open.values()]
        return [*open_, *self._ledger.queue.order(), *self._ledger.running.values()]

    def unread(self) -> list[int]:
        return [len(outbox) for outbox in self._ledger.outboxes.values()]


@dataclass
class Asked:
    """What is known of an accepted request: the events that were taken."""

    images: int
    may_fail: bool
    events: list[object] = field(default_factory=list)

    @property
    def is_answered(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], TERMINAL)


@dataclass
class Client:
    session: Session
    asked: dict[str, Asked] = field(default_factory=dict)

    @property
    def open(self) -> list[str]:
        return [name for name, asked in self.asked.items() if not asked.is_answered]

    def read(self) -> None:
        """Take all there is."""
        self.session.post(Models(models=[]))
        while (answer := self.session.take()) is not None:
            event, tag = answer
            if isinstance(event, Models):
                return
            assert tag == f"tag of {event.id}"  # type: ignore[union-attr]
            self.heard(self.asked[event.id], event)  # type: ignore[union-attr, index]

    def heard(self, asked: Asked, event: object) -> None:
        assert not asked.is_answered, "an event after the last one"
        assert isinstance(event, Accepted) == (not asked.events)
        steps = [e.step for e in [*asked.events, event] if isinstance(e, Progress)]
        assert steps == sorted(set(steps)), "progress went back"
        if isinstance(event, Completed):
            assert len(event.images) == asked.images
        assert asked.may_fail or not isinstance(event, Failed), event
        asked.events.append(event)


class Promises(RuleBasedStateMachine):
    @initialize(clients=st.integers(1, 3), late=st.booleans())
    def begin(self, clients: int, late: bool) -> None:
        self.faults: dict[str, Fault] = {}
        self.doorway = Doorway()
        self.engine = ScriptedEngine(
            capacity=CAPACITY,
            faults=self.faults,
            gate=self.doorway,
            loading_gate=self.doorway,
            late=late,
            finishing_gate=self.doorway,
        )
        self.service = ByHand(self.engine)
        self.clients = [Client(self.service.open_session()) for _ in range(clients)]
        self.seen: dict[int, tuple[Job, State]] = {}
        self.number = 0
        self.draining = False

    def client(self, which: int) -> Client:
        return self.clients[which % len(self.clients)]

    def must_refuse(self, client: Client, request_id: str) -> type[RunAIError] | None:
        if self.draining:
            return ServerStopping
        if request_id in client.open:
            return DuplicateId
        full = len(client.open) >= MAX_OPEN or self.service.status().queued >= MAX_QUEUED
        return QueueFull if full else None

    @rule(
        which=st.integers(0, 3),
        models=st.lists(st.sampled_from(MODELS), min_size=1, max_size=4),
        steps=st.integers(1, 4),
        images=st.integers(1, 2),
    )
    def submit(self, which: int, models: list[str], steps: int, images: int) -> None:
        for model in models:
            self.number += 1
            self.ask(self.client(which), f"r{self.number}", model, steps, images)

    @rule(
        which=st.integers(0, 3),
        error=st.sampled_from(ERRORS),
        after=st.none() | st.integers(0, 2),
        raised=st.sampled_from([False, False, True]),
    )
    def submit_what_fails(
        self, which: int, error: Exception, after: int | None, raised: bool
    ) -> None:
        self.number += 1
        name = f"bad{self.number}"
        self.faults[name] = Fault(error, after, raised)
        self.ask(self.client(which), name, "", 4, 1)

    @rule(which=st.integers(0, 3), number=st.integers(0, 3))
    def submit_again(self, which: int, number: int) -> None:
        client = self.client(which)
        names = list(client.asked)
        if names:
            self.ask(client, names[-1 - number % len(names)], "", 1, 1)

    def ask(self, client: Client, name: str, model: str, steps: int, images: int) -> None:
        expected = self.must_refuse(client, name)
        request = ask(name, num_inference_steps=steps, num_images=images, model=model, preview=True)
        try:
            client.session.submit(request, f"tag of {name}")
        except RunAIError as error:
            assert type(error) is expected
        else:
            assert expected is None
            # a step that raises is everybody's failure
            anybodys = any(fault.raised for fault in self.faults.values())
            client.asked[name] = Asked(
                images, anybodys or name in self.faults or model == "nowhere"
            )
            if name in self.faults and self.faults[name].raised:
                self.all_may_fail()

    def all_may_fail(self) -> None:
        for client in self.clients:
            for asked in client.asked.values():
                asked.may_fail = True

    @rule(which=st.integers(0, 3), number=st.integers(0, 3), unread=st.booleans())
    def cancel(self, which: int, number: int, unread: bool) -> None:
        client = self.client(which)
        name = client.open[number % len(client.open)] if client.open else "nobody's"
        done = client.session.cancel(name)
        assert not client.session.cancel(name), "canceled twice"
        if not unread:
            client.read()
            assert name not in client.open
            assert not done or isinstance(client.asked[name].events[-1], Canceled)

    @rule(which=st.integers(0, 3))
    def cancel_all(self, which: int) -> None:
        client = self.client(which)
        client.session.cancel_all()
        client.read()
        assert client.open == []

    @rule(which=st.integers(0, 3))
    def read(self, which: int) -> None:
        self.client(which).read()

    @rule(which=st.integers(0, 3))
    def leave_and_come(self, which: int) -> None:
        client = self.client(which)
        client.session.close()
        assert client.session.take() is None
        self.clients[self.clients.index(client)] = Client(self.service.open_session())

    @rule(turns=st.integers(1, 4))
    def work(self, turns: int) -> None:
        for _ in range(turns):
            self.service.turn()

    @rule(times=st.integers(1, 3))
    def finish(self, times: int) -> None:
        for _ in range(times):
            self.service.finish()

    @rule(which=st.integers(0, 3), number=st.integers(0, 3), leaves=st.booleans())
    def work_and_meanwhile(self, which: int, number: int, leaves: bool) -> None:
        if leaves:
            self.doorway.meanwhile = [lambda: self.leave_and_come(which)]
        else:
            self.doorway.meanwhile = [lambda: self.cancel(which, number, True)]
        self.service.turn()

    @invariant()
    def states_follow_the_table(self) -> None:
        for job in [*self.service.jobs(), *(job for job, _ in self.seen.values())]:
            before = self.seen.get(id(job), (job, State.QUEUED))[1]
            # a turn may take a job through running to its end
            reachable = {before} | TRANSITIONS[before]
            reachable |= {after for step in TRANSITIONS[before] for after in TRANSITIONS[step]}
            assert job.state in reachable
            self.seen[id(job)] = (job, job.state)

    @invariant()
    def bounds_hold(self) -> None:
        status = self.service.status()
        assert status.queued <= MAX_QUEUED
        # past what there is room for, a newcomer is let in beside two of another client's
        assert status.running - self.service.drawn < 2 * CAPACITY
        assert status.clients == len(self.clients)
        assert status.queued + status.running <= sum(len(client.open) for client in self.clients)
        per_job = 3 + 2  # accepted, loading, the last or the progress; and two previews
        assert all(unread <= MAX_OPEN * per_job for unread in self.service.unread())

    @invariant()
    def nobody_starves(self) -> None:
        assert all(job.passed_over <= MAX_PASSED_OVER for job, _ in self.seen.values())

    @invariant()
    def the_engine_is_as_busy_as_the_books_say(self) -> None:
        status = self.service.status()
        assert self.engine.is_busy() or status.running == self.service.drawn

    def teardown(self) -> None:
        """Everything ends within the turns that it takes, or is canceled by a drain."""
        if self.number % 2:
            self.drain()
        for _ in range(200):
            if not (self.service.turn() or self.service.finish()):
                break
        else:
            raise AssertionError("the worker never came to rest")
        for client in self.clients:
            client.read()
            assert client.open == []
        assert not self.engine.is_busy()
        status = self.service.status()
        assert (status.queued, status.running) == (0, 0)
        self.service.stop()

    def drain(self) -> None:
        status = self.service.status()
        assert self.service.drain(0.0) is (status.queued + status.running == 0)
        self.draining = True
        self.ask(self.client(0), "late", "", 1, 1)


TestPromises = Promises.TestCase
TestPromises.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
