"""Whatever goes wrong in the engine is told to those it concerns, and the worker lives on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from runai.errors import ModelBroken, NotFinite, OutOfMemory, RunAIError
from runai.jobs.engine import Engine
from runai.jobs.service import Service
from runai.schema.events import Canceled, Completed, Failed, JobEvent
from runai.testing.scripted import Fault, ScriptedEngine
from tests.jobs.asking import PATIENCE_S, ask, end_of, ends_of, take_until_end

Serve = Callable[..., Service]
FAULTS = {
    "an error of ours": (ModelBroken("Half a file."), "model_broken"),
    "no memory": (MemoryError(), "out_of_memory"),
    "a surprise": (ZeroDivisionError("division by zero"), "internal"),
}


def code_of(event: JobEvent) -> str:
    assert isinstance(event, Failed)
    return event.error.code


@pytest.mark.parametrize("name", FAULTS)
def test_an_exception_in_admit_is_that_requests_failure(serve: Serve, name: str) -> None:
    error, code = FAULTS[name]
    session = serve(ScriptedEngine(faults={"bad": Fault(error)})).open_session()
    for request_id in ("good", "bad", "after"):
        session.submit(ask(request_id))
    ends = ends_of(session, "good", "bad", "after")
    assert isinstance(ends["good"], Completed)
    assert code_of(ends["bad"]) == code
    assert isinstance(ends["after"], Completed)


@pytest.mark.parametrize("name", FAULTS)
def test_an_exception_in_a_step_fails_all_that_are_drawn_and_no_others(
    serve: Serve, name: str
) -> None:
    error, code = FAULTS[name]
    engine = ScriptedEngine(capacity=2, faults={"bad": Fault(error, after_steps=2, raised=True)})
    engine.gate.close()
    session = serve(engine).open_session()
    for request_id in ("beside", "bad", "waiting"):
        session.submit(ask(request_id, num_inference_steps=9))
    engine.gate.open()
    ends = ends_of(session, "beside", "bad", "waiting")
    assert code_of(ends["bad"]) == code_of(ends["beside"]) == code
    assert isinstance(ends["waiting"], Completed)
    assert sorted(engine.requests("drop")) == ["bad", "beside"]


def test_those_beside_a_step_that_raised_are_told_too(serve: Serve) -> None:
    engine = ScriptedEngine(faults={"bad": Fault(OSError("gone"), after_steps=0, raised=True)})
    service = serve(engine)
    engine.gate.close()
    one, other = service.open_session(), service.open_session()
    one.submit(ask("beside", num_inference_steps=9))
    engine.gate.wait_until_reached()
    other.submit(ask("bad"))
    engine.gate.open()
    assert code_of(end_of(one, "beside")) == "internal"
    failed = end_of(other, "bad")
    assert isinstance(failed, Failed)
    assert failed.error.message == "OSError: gone"


def test_a_failure_that_has_an_owner_is_its_owners_alone(serve: Serve) -> None:
    engine = ScriptedEngine(faults={"bad": Fault(NotFinite("NaN."), after_steps=1)})
    session = serve(engine).open_session()
    for request_id in ("beside", "bad"):
        session.submit(ask(request_id, num_inference_steps=4))
    ends = ends_of(session, "beside", "bad")
    assert isinstance(ends["beside"], Completed)
    assert code_of(ends["bad"]) == "not_finite"


def test_surprises_are_logged_with_their_traceback(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ScriptedEngine(
        faults={"bug": Fault(KeyError("x")), "known": Fault(ModelBroken("Half a file."))}
    )
    session = serve(engine).open_session()
    with caplog.at_level(logging.ERROR):
        for request_id in ("bug", "known"):
            session.submit(ask(request_id))
            take_until_end(session, request_id)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError]


def test_a_request_canceled_in_the_loading_that_then_fails_ends_canceled(serve: Serve) -> None:
    engine = ScriptedEngine(faults={"bad": Fault(ModelBroken("Half a file."))})
    engine.loading_gate.close()
    session = serve(engine).open_session()
    session.submit(ask("bad"))
    engine.loading_gate.wait_until_reached()
    session.cancel("bad")
    engine.loading_gate.open()
    session.submit(ask("after"))
    ends = ends_of(session, "bad", "after")
    assert ends["bad"] == Canceled(id="bad")
    assert isinstance(ends["after"], Completed)


def test_what_a_step_says_of_a_request_canceled_in_it_harms_nobody(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    session = serve(engine).open_session()
    session.submit(ask("canceled"))
    session.submit(ask("beside", num_inference_steps=5))
    engine.gate.let_pass()  # the first may be alone in the first step
    engine.gate.wait_until_reached()
    session.cancel("canceled")
    engine.gate.open()
    ends = ends_of(session, "canceled", "beside")
    assert ends["canceled"] == Canceled(id="canceled")
    assert isinstance(ends["beside"], Completed)


class Forgetful(ScriptedEngine):
    """Loses what it is drawing in its second step, without a word."""

    asked = 0

    def step(self) -> list[tuple[str, JobEvent]]:
        self.asked += 1
        if self.asked == 2:
            self._drawings.clear()
        return list(super().step())


def test_a_request_that_the_engine_lost_fails_and_does_not_hang(serve: Serve) -> None:
    session = serve(Forgetful()).open_session()
    session.submit(ask("a", num_inference_steps=5))
    assert code_of(end_of(session, "a")) == "internal"
    session.submit(ask("b"))
    assert isinstance(end_of(session, "b"), Completed)


class Roomless(ScriptedEngine):
    def has_room(self) -> bool:
        return False


def test_an_idle_engine_is_offered_work_whatever_it_says_of_its_room(serve: Serve) -> None:
    session = serve(Roomless()).open_session()
    for request_id in "ab":
        session.submit(ask(request_id))
        assert isinstance(end_of(session, request_id), Completed)


class Broken(ScriptedEngine):
    """Cannot even say whether it has room."""

    def has_room(self) -> bool:
        raise RuntimeError("the device is lost")


class Watched:
    """A service whose engine does not come up or breaks, and what was told of it."""

    def __init__(self, make_engine: Callable[[], Engine]) -> None:
        self.errors: list[RunAIError] = []
        self.told = threading.Event()
        self.service = Service(make_engine, on_fatal=self.on_fatal)
        self.session = self.service.open_session()

    def on_fatal(self, error: RunAIError) -> None:
        self.service.status()  # it may ask: no lock is held
        self.errors.append(error)
        self.told.set()

    def wait(self) -> str:
        assert self.told.wait(PATIENCE_S)
        return self.errors[0].code


def no_engine() -> Engine:
    raise OutOfMemory("The device is full.")


def test_an_engine_that_cannot_be_made_fails_what_waits_and_what_comes() -> None:
    watched = Watched(no_engine)
    watched.session.submit(ask("early"))
    watched.service.start()
    assert watched.wait() == "out_of_memory"
    assert code_of(end_of(watched.session, "early")) == "out_of_memory"
    with pytest.raises(OutOfMemory):
        watched.session.submit(ask("late"))
    with pytest.raises(OutOfMemory):
        watched.service.models()
    assert watched.service.state == "stopping"
    watched.service.stop()
    assert len(watched.errors) == 1


def test_a_surprise_before_there_is_an_engine_is_told_with_its_text() -> None:
    def make() -> Engine:
        raise RuntimeError("the driver is too old")

    watched = Watched(make)
    watched.service.start()
    watched.wait()
    watched.service.stop()
    assert "the driver is too old" in watched.errors[0].message


def test_an_engine_that_breaks_for_good_fails_everything_and_says_so() -> None:
    engine = Broken()
    watched = Watched(lambda: engine)
    for request_id in "ab":
        watched.session.submit(ask(request_id))
    watched.service.start()
    assert watched.wait() == "internal"
    ends = ends_of(watched.session, "a", "b")
    assert [code_of(end) for end in ends.values()] == ["internal", "internal"]
    # its clients hear all of it; who is told may print it, and it could quote a request
    assert "the device is lost" in str(ends["a"])
    assert "the device is lost" not in str(watched.errors[0])
    assert engine.closed
    watched.service.stop()


def test_an_engine_that_cannot_be_closed_does_not_keep_the_server_from_stopping() -> None:
    class Stuck(ScriptedEngine):
        def close(self) -> None:
            raise OSError("the device is lost")

    watched = Watched(Stuck)
    watched.service.start()
    watched.service.models()
    watched.service.stop()
    assert watched.wait() == "internal"
