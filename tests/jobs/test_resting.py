"""A service with nothing to do lets its engine let go of things, and does not poll it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from runai.jobs.service import Service
from runai.testing.scripted import ScriptedEngine
from tests.jobs.asking import PATIENCE_S, ask, end_of

Serve = Callable[..., Service]


class Resting(ScriptedEngine):
    """Tells when it has been asked to rest so many times."""

    def __init__(self, rests: list[float | None]) -> None:
        super().__init__(rests=rests)
        self.rested = threading.Semaphore(0)

    def rest(self) -> float | None:
        wait = super().rest()
        self.rested.release()
        return wait

    def was_asked(self, times: int) -> bool:
        return all(self.rested.acquire(timeout=PATIENCE_S) for _ in range(times))


def test_an_idle_engine_is_asked_again_when_it_said_so(serve: Serve) -> None:
    engine = Resting([0.001, 0.001, None])
    service = serve(engine)
    session = service.open_session()
    assert engine.was_asked(1)  # with nothing loaded
    session.submit(ask("a"))
    end_of(session, "a")
    assert engine.was_asked(3)
    assert engine.requests("rest") == ["", "", ""]
    assert service.status().loaded_models == []
    assert not engine.rested.acquire(timeout=0.05)


def test_an_engine_is_not_asked_to_rest_while_there_is_work(serve: Serve) -> None:
    engine = Resting([0.0, 0.0, 0.0, None])
    engine.gate.close()
    service = serve(engine)
    session = service.open_session()
    assert engine.was_asked(1)
    session.submit(ask("a", num_inference_steps=9))
    for _ in range(8):
        engine.gate.wait_until_reached()
        engine.gate.let_pass()
    assert engine.requests("rest") == []
    engine.gate.open()
    end_of(session, "a")
    assert engine.was_asked(4)


def test_a_wait_for_the_next_rest_ends_when_work_comes(serve: Serve) -> None:
    engine = Resting([3600.0, 3600.0, None])
    service = serve(engine)
    session = service.open_session()
    for name in "ab":
        session.submit(ask(name))
        end_of(session, name)
        assert engine.was_asked(1)
    assert service.status().loaded_models == ["shapes"]


def test_the_status_tells_what_is_held(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    session = service.open_session()
    session.submit(ask("a"))
    end_of(session, "a")
    assert [held.name for held in service.status().holdings.loaded] == ["shapes"]
