"""What the service counts and times, seen through its status and its log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import get_args

import pytest

from runai.errors import InvalidJSON, ModelBroken, NotFinite, QueueFull, TooManySteps
from runai.jobs import counters
from runai.jobs.counters import Counters
from runai.jobs.service import Service
from runai.schema import events
from runai.schema.events import Status
from runai.testing.scripted import SECONDS, Fault, ScriptedEngine
from tests.jobs.asking import ask, end_of, ends_of

Serve = Callable[..., Service]


def timings_of(status: Status) -> dict[str, tuple[int, float]]:
    """The count and the mean of each stage."""
    return {timed.stage: (timed.count, timed.mean_s) for timed in status.timings}


def test_requests_are_counted_by_how_they_began_and_ended(serve: Serve) -> None:
    engine = ScriptedEngine(
        faults={
            "bad": Fault(NotFinite("NaN."), after_steps=1),
            "worse": Fault(ModelBroken("Half a file.")),
        }
    )
    service = serve(engine, max_queued=3)
    session = service.open_session()
    session.submit(ask("well", num_images=3, num_inference_steps=4))
    assert end_of(session, "well").type == "completed"
    for name in ("bad", "worse"):
        session.submit(ask(name))
        assert end_of(session, name).type == "failed"
    engine.gate.close()
    session.submit(ask("running"))
    engine.gate.wait_until_reached()
    session.cancel("running")
    with pytest.raises(TooManySteps):
        session.submit(ask("long", num_inference_steps=999))
    session.refused(InvalidJSON("No JSON."))
    counted = service.status().counters
    assert (counted.accepted, counted.completed, counted.canceled) == (4, 1, 1)
    assert counted.failed == {"not_finite": 1, "model_broken": 1}
    assert counted.refused == {"too_many_steps": 1, "invalid_json": 1}
    assert (counted.pictures, counted.steps) == (3, 13)  # one of them by "bad"


def test_requests_of_a_client_that_left_are_counted_as_canceled(serve: Serve) -> None:
    engine = ScriptedEngine(capacity=1)
    engine.gate.close()
    service = serve(engine)
    session = service.open_session()
    for name in ("a", "b"):
        session.submit(ask(name))
    session.close()
    assert service.status().counters.canceled == 2


def test_a_full_queue_is_counted_as_a_refusal(serve: Serve) -> None:
    engine = ScriptedEngine(capacity=1)
    engine.gate.close()
    service = serve(engine, max_queued=1)
    session = service.open_session()
    session.submit(ask("a"))
    engine.gate.wait_until_reached()
    session.submit(ask("b"))
    with pytest.raises(QueueFull):
        session.submit(ask("c"))
    counted = service.status().counters
    assert (counted.accepted, counted.refused) == (2, {"queue_full": 1})


def test_stages_are_timed_as_the_engine_says(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine)
    session = service.open_session()
    session.submit(ask("a", num_images=2))  # two steps each, together
    engine.gate.wait_until_reached()
    engine.gate.open()
    end_of(session, "a")
    timed = timings_of(service.status())
    assert timed.pop("queue")[0] == 1
    assert timed == {
        "load": (1, SECONDS["load"]),
        "encode": (1, SECONDS["encode"]),
        "step": (2, SECONDS["step"]),
        "decode": (2, SECONDS["decode"]),
        "png": (2, SECONDS["png"]),
    }


def test_what_failed_is_timed_too(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    service = serve(ScriptedEngine(faults={"bad": Fault(ModelBroken("Half a file."))}))
    session = service.open_session()
    with caplog.at_level(logging.INFO, "runai.jobs"):
        session.submit(ask("bad"))
        end_of(session, "bad")
        service.stop()
    (failed,) = [record.fields for record in caplog.records if record.msg == "Failed."]  # type: ignore[attr-defined]
    assert (failed["code"], failed["load_s"]) == ("model_broken", SECONDS["load"])
    assert timings_of(service.status())["load"] == (1, SECONDS["load"])


def test_a_steps_seconds_are_those_of_every_request_in_its_batch(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ScriptedEngine()
    engine.loading_gate.close()
    service = serve(engine)
    session = service.open_session()
    with caplog.at_level(logging.INFO, "runai.jobs"):
        session.submit(ask("warm"))
        engine.loading_gate.wait_until_reached()
        for name in ("a", "b"):
            session.submit(ask(name, num_inference_steps=2))
        engine.loading_gate.open()
        ends_of(session, "warm", "a", "b")
        service.stop()
    said = {r.fields["request"]: r.fields for r in caplog.records if r.msg == "Finished."}  # type: ignore[attr-defined]
    assert [said[name]["step_s"] for name in ("a", "b")] == [1.0, 1.0]
    assert "load_s" not in said["a"] and said["warm"]["load_s"] == SECONDS["load"]
    assert timings_of(service.status())["step"][0] < 6  # they shared some


def test_the_log_tells_a_jobs_life_in_order_and_outside_of_the_lock(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    session = service.open_session()
    told: list[str] = []

    class Asking(logging.Handler):
        """Asks the service as it is told: with the lock held that would never return."""

        def emit(self, record: logging.LogRecord) -> None:
            service.status()
            told.append(record.msg)

    log, handler = logging.getLogger("runai.jobs"), Asking()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with pytest.raises(TooManySteps):
            session.submit(ask("long", num_inference_steps=999))
        session.submit(ask("a"))
        end_of(session, "a")
        service.stop()
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    assert sorted(told) == ["Accepted.", "Finished.", "Refused.", "Started."]


def test_every_name_that_can_be_counted_is_a_field_of_the_status() -> None:
    names = {*get_args(counters.Name), *get_args(counters.NameOfErrors)}
    assert names == set(events.Counters.model_fields)


def test_counting_from_many_threads_loses_nothing() -> None:
    counted = Counters()

    def count() -> None:
        for _ in range(2000):
            counted.count("received_bytes", 3)
            counted.count_error("refused", "invalid_json")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    event = counted.as_event()
    assert (event.received_bytes, event.refused) == (48_000, {"invalid_json": 16_000})


def test_a_status_says_what_transports_count(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    service.counters.count("connections")
    service.counters.count("sent_bytes", 1024)
    said = service.status().counters
    assert (said.connections, said.connections_refused, said.sent_bytes) == (1, 0, 1024)
