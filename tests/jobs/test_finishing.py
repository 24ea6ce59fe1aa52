"""Last answers that an engine leaves to be made: on another thread, while it draws on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runai.errors import DeviceLost
from runai.jobs import finisher
from runai.jobs.service import Service
from runai.jobs.session import Session
from runai.schema.events import Accepted, Canceled, Completed, Failed, Progress
from runai.testing.scripted import ScriptedEngine
from tests.jobs.asking import ask, ends_of, in_thread, take_until_end

Serve = Callable[..., Service]


def late_engine(**more: object) -> ScriptedEngine:
    """Its pictures wait at a closed gate to be written."""
    engine = ScriptedEngine(late=True, **more)  # type: ignore[arg-type]
    engine.finishing_gate.close()
    return engine


def break_while_one_is_written(
    engine: ScriptedEngine, session: Session, error: BaseException
) -> None:
    """In a step of another request's."""
    session.submit(ask("drawn"))
    engine.finishing_gate.wait_until_reached()
    engine.gate.close()
    session.submit(ask("beside"))
    engine.gate.wait_until_reached()
    engine.breaks["step"].append(error)
    engine.gate.open()


def test_others_are_drawn_while_a_picture_is_written(serve: Serve) -> None:
    engine = late_engine(capacity=1)
    session = serve(engine).open_session()
    session.submit(ask("slow"))
    engine.finishing_gate.wait_until_reached()
    engine.gate.close()
    session.submit(ask("next"))
    engine.gate.wait_until_reached()  # though the first one has not had its last answer
    engine.gate.open()
    engine.finishing_gate.open()
    ends = ends_of(session, "slow", "next")
    assert all(isinstance(end, Completed) for end in ends.values())
    assert engine.threads == {"runai-worker", "runai-finisher"}


def test_progress_comes_before_the_last_answer(serve: Serve) -> None:
    engine = ScriptedEngine(late=True)
    session = serve(engine).open_session()
    session.submit(ask("a", num_inference_steps=3))
    events = take_until_end(session, "a")
    assert isinstance(events[0], Accepted) and isinstance(events[-1], Completed)
    assert [type(event) for event in events[2:-1]] in ([Progress], [Progress] * 2, [Progress] * 3)


def test_what_is_canceled_while_it_is_written_is_over_at_once(serve: Serve) -> None:
    engine = late_engine()
    session = serve(engine).open_session()
    for name in ("written", "waiting", "kept"):
        session.submit(ask(name))
    engine.finishing_gate.wait_until_reached()
    assert session.cancel("written") and session.cancel("waiting")
    assert isinstance(take_until_end(session, "written")[-1], Canceled)
    engine.finishing_gate.open()
    ends = ends_of(session, "waiting", "kept")
    assert isinstance(ends["waiting"], Canceled) and isinstance(ends["kept"], Completed)
    assert "waiting" not in engine.requests("finish"), "nobody wants it any more"


def test_a_picture_that_cannot_be_written_is_its_requests_failure(serve: Serve) -> None:
    engine = late_engine(breaks={"finish": [MemoryError()]})
    session = serve(engine).open_session()
    session.submit(ask("bad"))
    session.submit(ask("good"))
    engine.finishing_gate.open()
    ends = ends_of(session, "bad", "good")
    failed = [end for end in ends.values() if isinstance(end, Failed)]
    assert [one.error.code for one in failed] == ["out_of_memory"]
    assert sum(isinstance(end, Completed) for end in ends.values()) == 1


def test_what_is_drawn_gets_its_picture_though_the_engine_breaks(serve: Serve) -> None:
    engine = late_engine(breaks={"step": []}, capacity=1)
    session = serve(engine).open_session()
    break_while_one_is_written(engine, session, DeviceLost("Gone."))
    engine.finishing_gate.open()
    ends = ends_of(session, "drawn", "beside")
    assert isinstance(ends["drawn"], Completed)
    assert isinstance(ends["beside"], Failed) and ends["beside"].error.code == "device_lost"


def test_a_step_that_raises_does_not_fail_what_is_drawn(serve: Serve) -> None:
    engine = late_engine(breaks={"step": []}, capacity=1)
    session = serve(engine).open_session()
    break_while_one_is_written(engine, session, ValueError("a bug"))
    assert isinstance(take_until_end(session, "beside")[-1], Failed)
    engine.finishing_gate.open()
    assert isinstance(take_until_end(session, "drawn")[-1], Completed)


def test_an_engine_that_is_faster_than_writing_waits(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finisher, "MOST_WAITING", 1)
    engine = late_engine(capacity=1)
    service = serve(engine)
    session = service.open_session()
    for number in range(6):
        session.submit(ask(str(number), num_inference_steps=1))
    engine.finishing_gate.wait_until_reached()
    waiting = in_thread(lambda: ends_of(session, *map(str, range(6))))
    # one is written, one waits for it, and with a third in hand the worker stands still
    assert len(engine.requests("step")) <= 3
    engine.finishing_gate.open()
    assert all(isinstance(end, Completed) for end in waiting().values())
    assert len(engine.requests("step")) == 6


def test_the_time_of_writing_is_the_stages(serve: Serve) -> None:
    engine = ScriptedEngine(late=True)
    service = serve(engine)
    session = service.open_session()
    session.submit(ask("a"))
    take_until_end(session, "a")
    assert [one.count for one in service.status().timings if one.stage == "png"] == [1]


def test_a_server_that_waits_only_for_writing_is_idle(serve: Serve) -> None:
    engine = late_engine(rests=[None])
    service = serve(engine)
    session = service.open_session()
    session.submit(ask("a"))
    engine.finishing_gate.wait_until_reached()
    assert not service._ledger.has_work and service.status().running == 1
    engine.finishing_gate.open()
    assert isinstance(take_until_end(session, "a")[-1], Completed)
    assert service.status().running == 0


def test_a_drain_waits_for_what_is_written(serve: Serve) -> None:
    engine = late_engine()
    service = serve(engine)
    session = service.open_session()
    session.submit(ask("a"))
    engine.finishing_gate.wait_until_reached()
    drained = in_thread(lambda: service.drain(10.0))
    engine.finishing_gate.open()
    assert drained() is True
    assert isinstance(take_until_end(session, "a")[-1], Completed)
