"""What sessions can rely on, with the real worker thread and a scripted engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from runai.errors import DuplicateId, QueueFull, ServerStopping, TooManyPixels, TooManySteps
from runai.jobs import ledger
from runai.jobs.outbox import MAX_POSTED
from runai.jobs.service import Service
from runai.schema.events import (
    Accepted,
    Canceled,
    Completed,
    Failed,
    Loading,
    Models,
    Preview,
    Progress,
    Status,
)
from runai.schema.limits import Limits
from runai.schema.requests import ImageToImage
from runai.testing.scripted import ScriptedEngine
from tests.jobs.asking import ask, end_of, in_thread, take, take_all, take_until_end

Serve = Callable[..., Service]


def test_a_request_gets_accepted_first_and_completed_last(serve: Serve) -> None:
    session = serve(ScriptedEngine()).open_session()
    session.submit(ask("a", num_images=3))
    events = take_until_end(session, "a")
    assert events[0] == Accepted(id="a", position=0)
    assert events[1] == Loading(id="a", model="shapes")
    assert isinstance(events[-1], Completed)
    assert [picture.seed for picture in events[-1].images] == [1, 2, 3]


def test_loading_is_told_for_cold_models_only(serve: Serve) -> None:
    session = serve(ScriptedEngine()).open_session()
    session.submit(ask("cold"))
    assert any(isinstance(e, Loading) for e in take_until_end(session, "cold"))
    session.submit(ask("warm"))
    assert not any(isinstance(e, Loading) for e in take_until_end(session, "warm"))


def test_events_carry_the_tag_of_their_request(serve: Serve) -> None:
    session = serve(ScriptedEngine()).open_session()
    session.submit(ask("a"), tag="for a")
    session.post(Models(models=[]), tag="posted")
    session.finish()
    tags = set()
    while (answer := session.take()) is not None:
        tags.add((type(answer[0]) is Models, answer[1]))
    assert tags == {(False, "for a"), (True, "posted")}


def test_progress_is_told_step_by_step_to_a_client_that_reads(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    session = serve(engine).open_session()
    session.submit(ask("a", num_inference_steps=3, preview=True))
    seen = [take(session) for _ in ("accepted", "loading")]
    for step in (1, 2):
        engine.gate.let_pass()
        assert take(session) == Progress(id="a", step=step, total=3, seconds_left=float(3 - step))
        assert isinstance(take(session), Preview)
    engine.gate.let_pass()
    assert isinstance(end_of(session, "a"), Completed)
    assert len(seen) == 2


def test_a_client_that_does_not_read_finds_the_newest_progress_only(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    session = serve(engine).open_session()
    session.submit(ask("a", num_inference_steps=9, preview=True))
    engine.gate.let_pass(5)
    engine.gate.wait_until_reached()
    session.cancel("a")
    session.submit(ask("b", num_inference_steps=9))
    engine.gate.let_pass(4)
    engine.gate.wait_until_reached()
    events = [take(session) for _ in range(5)]
    assert [type(e) for e in events] == [Accepted, Loading, Canceled, Accepted, Progress]
    assert isinstance(events[-1], Progress)
    assert events[-1].step == 3  # the fourth pass was the step that a was canceled in


def test_a_cancel_is_answered_at_once_and_frees_the_engine_at_the_next_step(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine)
    session = service.open_session()
    session.submit(ask("a", num_inference_steps=100))
    engine.gate.wait_until_reached()
    assert session.cancel("a")
    assert end_of(session, "a") == Canceled(id="a")
    engine.gate.open()
    session.submit(ask("b"))
    assert isinstance(end_of(session, "b"), Completed)
    assert engine.requests("drop") == ["a"]
    assert engine.requests("step").count("a") == 1


def test_a_waiting_request_that_is_canceled_never_reaches_the_engine(serve: Serve) -> None:
    engine = ScriptedEngine(capacity=1)
    engine.gate.close()
    session = serve(engine).open_session()
    session.submit(ask("a"))
    engine.gate.wait_until_reached()
    session.submit(ask("b"))
    assert session.cancel("b")
    engine.gate.open()
    session.finish()
    last = {e.id: type(e) for e in take_all(session)}  # type: ignore[union-attr]
    assert last == {"a": Completed, "b": Canceled}
    assert engine.requests("admit") == ["a"]


def test_a_cancel_during_loading_ends_the_request_before_its_first_step(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.loading_gate.close()
    service = serve(engine)
    session = service.open_session()
    session.submit(ask("a"))
    engine.loading_gate.wait_until_reached()
    status = service.status()
    assert (status.state, status.detail) == ("loading", "shapes")
    assert session.cancel("a")
    engine.loading_gate.open()
    session.submit(ask("b"))
    assert isinstance(end_of(session, "b"), Completed)
    assert not any("a" in ids for ids in engine.requests("step"))


@pytest.mark.parametrize("request_id", ["never asked", "answered"])
def test_there_is_nothing_to_cancel_in_what_is_not_open(serve: Serve, request_id: str) -> None:
    session = serve(ScriptedEngine()).open_session()
    session.submit(ask("answered"))
    end_of(session, "answered")
    assert not session.cancel(request_id)


def test_a_client_can_only_cancel_its_own(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine)
    mine, theirs = service.open_session(), service.open_session()
    mine.submit(ask("a"))
    assert not theirs.cancel("a")
    theirs.cancel_all()
    engine.gate.open()
    assert isinstance(end_of(mine, "a"), Completed)


def test_cancel_all_ends_waiting_and_running_ones(serve: Serve) -> None:
    engine = ScriptedEngine(capacity=1)
    engine.gate.close()
    session = serve(engine).open_session()
    for name in "abc":
        session.submit(ask(name))
    engine.gate.wait_until_reached()
    session.cancel_all()
    session.finish()
    ends = [e for e in take_all(session) if isinstance(e, Canceled)]
    assert {e.id for e in ends} == set("abc")
    assert len(ends) == 3


def test_cancel_all_leaves_what_is_answered_but_unread_as_it_is(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    session, other = service.open_session(), service.open_session()
    session.submit(ask("a", num_inference_steps=1))
    other.submit(ask("later", num_inference_steps=5))
    end_of(other, "later")
    session.cancel_all()
    assert isinstance(end_of(session, "a"), Completed)


def test_a_client_that_leaves_frees_the_engine_and_disturbs_nobody(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine)
    leaving, staying = service.open_session(), service.open_session()
    leaving.submit(ask("gone", num_inference_steps=100))
    leaving.submit(ask("gone too", num_inference_steps=100))
    staying.submit(ask("stays"))
    engine.gate.wait_until_reached()
    leaving.close()
    assert leaving.take() is None
    assert service.status().clients == 1
    engine.gate.open()
    assert isinstance(end_of(staying, "stays"), Completed)
    assert service.status().running == 0
    assert all(ids.count("gone") <= 2 for ids in engine.requests("step")[:1])
    assert not any("gone" in ids for ids in engine.requests("step")[2:])


def test_closing_ends_a_take_that_waits(serve: Serve) -> None:
    session = serve(ScriptedEngine()).open_session()
    taken = in_thread(session.take)
    session.close()
    assert taken() is None


def test_finishing_ends_a_take_that_waits(serve: Serve) -> None:
    session = serve(ScriptedEngine()).open_session()
    taken = in_thread(session.take)
    session.finish()
    assert taken() is None


def test_a_finished_session_takes_what_is_open_and_nothing_new(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    session = serve(engine).open_session()
    session.submit(ask("a"))
    session.finish()
    with pytest.raises(ServerStopping):
        session.submit(ask("b"))
    engine.gate.open()
    assert isinstance(take_all(session)[-1], Completed)


def test_a_client_that_never_takes_answers_is_bounded(serve: Serve) -> None:
    session = serve(ScriptedEngine(), max_open_per_session=2).open_session()
    for name in "ab":
        session.submit(ask(name))
    with pytest.raises(QueueFull):
        session.submit(ask("c"))
    end_of(session, "a")
    session.submit(ask("c"))
    assert isinstance(end_of(session, "c"), Completed)


def test_the_queue_is_bounded_over_all_clients(serve: Serve) -> None:
    engine = ScriptedEngine(capacity=1)
    engine.gate.close()
    service = serve(engine, max_queued=2)
    first, second = service.open_session(), service.open_session()
    first.submit(ask("runs"))
    engine.gate.wait_until_reached()
    first.submit(ask("waits"))
    second.submit(ask("waits"))
    for session in (first, second):
        with pytest.raises(QueueFull):
            session.submit(ask("too much"))


def test_an_id_is_taken_until_its_last_answer_is_read(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    session, other = service.open_session(), service.open_session()
    session.submit(ask("a"))
    with pytest.raises(DuplicateId) as caught:
        session.submit(ask("a"))
    assert caught.value.field == "id"
    other.submit(ask("a"))
    end_of(session, "a")
    session.submit(ask("a"))
    assert isinstance(end_of(session, "a"), Completed)
    assert isinstance(end_of(other, "a"), Completed)


def test_the_position_is_how_many_wait_before_it(serve: Serve) -> None:
    engine = ScriptedEngine(capacity=1)
    engine.gate.close()
    service = serve(engine)
    first, second = service.open_session(), service.open_session()
    first.submit(ask("runs"))
    engine.gate.wait_until_reached()
    for session, name in ((first, "f0"), (first, "f1"), (second, "s0")):
        session.submit(ask(name))
    second.finish()
    assert take(second) == Accepted(id="s0", position=1)


def test_a_request_past_a_limit_is_not_accepted(serve: Serve) -> None:
    session = serve(ScriptedEngine(), limits=Limits(max_pixels=64 * 64, max_steps=5)).open_session()
    with pytest.raises(TooManyPixels):
        session.submit(ask("wide", width=128))
    with pytest.raises(TooManySteps):
        session.submit(ask("long", num_inference_steps=6))
    session.submit(ask("fits"))
    assert isinstance(end_of(session, "fits"), Completed)


def test_posting_blocks_while_too_many_posts_are_unread(serve: Serve) -> None:
    session = serve(ScriptedEngine()).open_session()
    for _ in range(MAX_POSTED):
        session.post(Models(models=[]))
    done = threading.Event()
    posted = in_thread(lambda: (session.post(Models(models=[]), "last"), done.set()))
    assert not done.wait(0.02)
    assert take(session) == Models(models=[])
    posted()
    session.finish()
    assert len(take_all(session)) == MAX_POSTED


def test_closing_ends_a_post_that_waits(serve: Serve) -> None:
    session = serve(ScriptedEngine()).open_session()
    for _ in range(MAX_POSTED):
        session.post(Models(models=[]))
    posted = in_thread(lambda: session.post(Models(models=[])))
    session.close()
    posted()
    session.post(Models(models=[]))  # and later ones return at once
    assert take(session) is None


def test_the_engine_is_called_on_one_thread_only(serve: Serve) -> None:
    engine = ScriptedEngine()
    service = serve(engine)
    sessions = [service.open_session() for _ in range(3)]
    for session in sessions:
        session.submit(ask("a"))
    for session in sessions:
        end_of(session, "a")
    service.stop()
    assert engine.threads == {"runai-worker"}


def test_requests_of_strangers_share_a_step(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine)
    one, other = service.open_session(), service.open_session()
    one.submit(ask("a"))
    engine.gate.wait_until_reached()
    other.submit(ask("b"))
    engine.gate.open()
    assert isinstance(end_of(one, "a"), Completed)
    assert isinstance(end_of(other, "b"), Completed)
    assert "a,b" in engine.requests("step")


def test_the_status_counts_clients_queued_and_running(serve: Serve) -> None:
    engine = ScriptedEngine(capacity=1)
    engine.gate.close()
    service = serve(engine)
    session = service.open_session()
    service.open_session()
    for name in "abc":
        session.submit(ask(name))
    engine.gate.wait_until_reached()
    status = service.status()
    assert (status.clients, status.queued, status.running) == (2, 2, 1)
    assert (status.state, status.loaded_models) == ("ready", ["shapes"])
    assert status.uptime_s > 0


def test_a_question_is_answered_past_those_who_hand_in_requests(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    sessions = [service.open_session() for _ in range(20)]
    with service._ledger.intake:  # somebody's turn, which takes long
        handing_in = [in_thread(partial(session.submit, ask("a"))) for session in sessions]
        sessions[0].post(service.status())
        answer = take(sessions[0])
        assert isinstance(answer, Status) and answer.counters.accepted == 0
    for handed_in, session in zip(handing_in, sessions, strict=True):
        handed_in()
        assert isinstance(take_until_end(session, "a")[-1], Completed)


def test_hello_tells_the_limits_and_what_can_be_asked(serve: Serve) -> None:
    limits = Limits(max_pixels=7, max_steps=8, max_images=9, max_input_pixels=10, max_json_depth=11)
    service = serve(ScriptedEngine(), limits=limits)
    service.models()
    hello = service.hello(max_message_bytes=6)
    capabilities = hello.capabilities
    assert hello.state == "ready"
    assert (capabilities.max_message_bytes, capabilities.max_pixels) == (6, 7)
    assert (capabilities.max_steps, capabilities.max_images) == (8, 9)
    assert (capabilities.max_input_pixels, capabilities.max_json_depth) == (10, 11)
    assert "outpaint" in capabilities.tasks
    assert "unipc" in capabilities.samplers


def test_failures_of_one_request_are_not_anothers(serve: Serve) -> None:
    session = serve(ScriptedEngine()).open_session()
    session.submit(ask("bad", model="nowhere"))
    session.submit(ask("good"))
    failed = end_of(session, "bad")
    assert isinstance(failed, Failed)
    assert (failed.error.code, failed.error.field) == ("model_not_found", "model")
    assert isinstance(end_of(session, "good"), Completed)


@pytest.mark.parametrize(("bound", "drawn"), [(1599, 2), (1600, 3), (1601, 3)])
def test_a_client_that_does_not_read_its_pictures_gets_no_more_drawn(
    serve: Serve, bound: int, drawn: int
) -> None:
    engine = ScriptedEngine(draw=lambda *_: b"x" * 800, capacity=1)
    service = serve(engine, max_unread_bytes=bound)
    deaf, other = service.open_session(), service.open_session()
    for number in range(6):
        deaf.submit(ask(f"d{number}"))
    other.submit(ask("other"))
    assert isinstance(end_of(other, "other"), Completed)
    other.submit(ask("again"))
    assert isinstance(end_of(other, "again"), Completed)
    assert service.status().queued == 6 - drawn
    assert all(isinstance(end_of(deaf, f"d{number}"), Completed) for number in range(6))


def test_the_pictures_of_waiting_requests_are_bounded(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MAX_QUEUED_BYTES", 1000)
    engine = ScriptedEngine()
    engine.gate.close()
    session = serve(engine).open_session()
    session.submit(ask("running"))
    engine.gate.wait_until_reached()
    size = {"width": 64, "height": 64, "num_inference_steps": 2}
    picture = {"image": b"x" * 900, "id": "", **size}
    for number in range(2):
        session.submit(ImageToImage(**{**picture, "id": str(number)}))
    with pytest.raises(QueueFull, match="pictures"):
        session.submit(ImageToImage(**{**picture, "id": "2"}))
    engine.gate.open()
    assert isinstance(end_of(session, "1"), Completed)
    session.submit(ImageToImage(**{**picture, "id": "3"}))
