"""How a service starts, drains and stops."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from runai.errors import RunAIError, ServerStopping
from runai.jobs.service import Service
from runai.schema.events import Canceled, Completed
from runai.testing.scripted import Gate, ScriptedEngine
from tests.jobs.asking import ask, end_of, in_thread, take, take_all

Serve = Callable[..., Service]


class Slow:
    """An engine that takes until the test says so to come up."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.gate.close()
        self.engine = ScriptedEngine()
        self.service = Service(self.make)

    def make(self) -> ScriptedEngine:
        self.gate.enter()
        return self.engine


def test_requests_are_taken_while_the_engine_starts() -> None:
    slow = Slow()
    session = slow.service.open_session()
    slow.service.start()
    slow.gate.wait_until_reached()
    session.submit(ask("a"))
    assert slow.service.state == "starting"
    assert slow.service.status().loaded_models == []
    slow.gate.open()
    assert isinstance(end_of(session, "a"), Completed)
    assert slow.service.state == "ready"
    slow.service.stop()


def test_models_wait_for_an_engine_that_is_starting() -> None:
    slow = Slow()
    slow.service.start()
    models = in_thread(slow.service.models)
    slow.gate.wait_until_reached()
    slow.gate.open()
    assert [model.name for model in models().models] == ["shapes", "other"]
    slow.service.stop()


def test_an_engine_that_does_not_come_because_of_the_stop_is_no_fault() -> None:
    told: list[RunAIError] = []
    slow = Slow()

    def give_up() -> ScriptedEngine:
        slow.make()
        raise ServerStopping("Given up.")

    service = Service(give_up, on_fatal=told.append)
    session = service.open_session()
    service.start()
    slow.gate.wait_until_reached()
    session.submit(ask("a"))
    assert not service.drain(0.0)
    slow.gate.open()
    service.stop()
    assert end_of(session, "a") == Canceled(id="a")
    assert told == []


def test_stopping_ends_a_wait_for_models() -> None:
    service = Service(ScriptedEngine)  # never started

    def ask_in_vain() -> bool:
        with pytest.raises(ServerStopping):
            service.models()
        return True

    asked = in_thread(ask_in_vain)
    service.stop()
    assert asked()


def test_draining_lets_what_runs_end_and_cancels_what_waits(serve: Serve) -> None:
    engine = ScriptedEngine(capacity=1)
    engine.gate.close()
    service = serve(engine)
    session = service.open_session()
    session.submit(ask("runs"))
    engine.gate.wait_until_reached()
    session.submit(ask("waits"))
    drained = in_thread(lambda: service.drain(10.0))
    assert end_of(session, "waits") == Canceled(id="waits")
    with pytest.raises(ServerStopping):
        session.submit(ask("late"))
    assert service.state == "stopping"
    engine.gate.open()
    assert drained() is False
    assert isinstance(end_of(session, "runs"), Completed)


def test_a_drain_that_cancels_nothing_says_so(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine)
    session = service.open_session()
    session.submit(ask("a"))
    engine.gate.wait_until_reached()
    drained = in_thread(lambda: service.drain(10.0))
    engine.gate.open()
    assert drained() is True
    assert isinstance(end_of(session, "a"), Completed)


def test_a_drain_ends_what_runs_when_the_grace_is_over(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine)
    session = service.open_session()
    session.submit(ask("a", num_inference_steps=100))
    engine.gate.wait_until_reached()
    assert service.drain(0.0) is False
    assert end_of(session, "a") == Canceled(id="a")


def test_stopping_cancels_everything_closes_the_engine_and_ends_the_thread(serve: Serve) -> None:
    engine = ScriptedEngine(capacity=1)
    engine.gate.close()
    service = serve(engine)
    session = service.open_session()
    for name in "ab":
        session.submit(ask(name, num_inference_steps=100))
    engine.gate.wait_until_reached()
    stopped = in_thread(service.stop)
    events = take_all(session)
    engine.gate.open()
    stopped()
    assert [e for e in events if isinstance(e, Canceled)] == [Canceled(id="b"), Canceled(id="a")]
    assert engine.closed
    assert not any(thread.name == "runai-worker" for thread in threading.enumerate())


def test_stopping_twice_from_two_threads_is_well(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    for stopped in [in_thread(service.stop) for _ in range(2)]:
        stopped()
    service.stop()


def test_a_session_opened_after_the_stop_ends_at_once(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    service.stop()
    session = service.open_session()
    with pytest.raises(ServerStopping):
        session.submit(ask("a"))
    assert take(session) is None
    assert service.status().clients == 0


def test_closing_twice_is_well(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    session = service.open_session()
    session.close()
    session.close()
    assert service.status().clients == 0
    with pytest.raises(ServerStopping):
        session.submit(ask("a"))


def test_an_idle_service_asks_its_engine_nothing(serve: Serve) -> None:
    engine = ScriptedEngine()
    service = serve(engine)
    session = service.open_session()
    session.submit(ask("a"))
    end_of(session, "a")
    before = list(engine.log)
    service.models()
    service.stop()
    assert engine.log == [*before, ("close", "")]
