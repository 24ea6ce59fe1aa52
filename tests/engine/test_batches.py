"""Who shares a UNet call, counted at the network itself: calls, rows, and who waits how long.

Counts, not seconds: they are the same on every machine. Where time decides, the clock is the
test's: a network's call takes as long as the test says.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from drawn import Calls, Timed, crowd, draw, held, last, make_request, pixels, run, step
from reference import worst

from runai.engine import batches, guidance
from runai.engine.engine import TorchEngine
from runai.engine.pace import ENOUGH, MOST_ROWS_EACH
from runai.jobs.service import Service
from runai.jobs.session import Session
from runai.schema.events import TERMINAL, Completed
from runai.schema.late import Late

# --- sharing -----------------------------------------------------------------------------

CLIENTS: tuple[dict[str, Any], ...] = (
    {"prompt": "a", "sampler": "euler", "num_inference_steps": 2, "guidance_scale": 3.0},
    {"prompt": "b", "sampler": "euler_a", "num_inference_steps": 3, "guidance_scale": 1.0},
    {"prompt": "c", "sampler": "ddim", "num_inference_steps": 4, "guidance_scale": 9.0},
    {"prompt": "d", "sampler": "heun", "num_inference_steps": 3},
    {"prompt": "e", "sampler": "dpmpp_2m_karras", "num_inference_steps": 6, "guidance_scale": 1.0},
    {"prompt": "f", "sampler": "unipc", "num_inference_steps": 7, "negative_prompt": "z"},
    {"prompt": "g", "sampler": "lms", "num_inference_steps": 8},
    {"prompt": "h", "sampler": "dpmpp_2m_sde", "num_inference_steps": 9, "task": "img2img"},
)
# UNet calls that each is in: Heun takes two for a step but the last; 0.8 of nine steps are seven
CALLS = (2, 3, 4, 5, 6, 7, 8, 7)
ROWS = (2, 1, 2, 2, 1, 2, 2, 2)


def test_eight_clients_share_their_calls_whatever_else_differs(
    drawers: Callable[..., TorchEngine],
) -> None:
    engine = drawers(max_batch=8)
    calls = Calls(held(engine).unet)
    requests = {str(i): make_request(seed=i, **fields) for i, fields in enumerate(CLIENTS)}
    events = run(engine, requests)
    assert all(isinstance(said[-1], Completed) for said in events.values())
    still = [
        sum(rows for rows, n in zip(ROWS, CALLS, strict=True) if n > turn) for turn in range(8)
    ]
    assert calls.rows == still
    assert len(calls.rows) == max(CALLS)
    assert sum(CALLS) == 42, "so many calls would it have been one after another"


def test_each_of_eight_clients_gets_the_picture_that_it_gets_alone(
    drawers: Callable[..., TorchEngine],
) -> None:
    engine = drawers(max_batch=8)
    requests = {str(i): make_request(seed=i, **fields) for i, fields in enumerate(CLIENTS)}
    together = run(engine, requests)
    for key, request in requests.items():
        alone = last(run(engine, {key: request})[key])
        assert worst(pixels(last(together[key])), pixels(alone)) <= 1


def test_a_sample_without_guidance_takes_one_row_beside_others(engine: TorchEngine) -> None:
    draw(engine)
    calls = Calls(held(engine).unet)
    run(engine, {"with": make_request(), "without": make_request(guidance_scale=1.0)})
    assert calls.rows == [2 + 1] * 4


def test_a_known_prompt_draws_without_the_text_encoder(engine: TorchEngine) -> None:
    texts = {"prompt": "never met before", "negative_prompt": "nor that"}
    draw(engine)
    calls = Calls(held(engine).texts[0].network)
    draw(engine, **texts)
    assert calls.rows
    before = len(calls.rows)
    draw(engine, **texts, seed=99, num_inference_steps=5, sampler="ddim", width=128)
    assert len(calls.rows) == before


# --- a short one among long ones ---------------------------------------------------------


@pytest.mark.parametrize(("max_batch", "calls_until_answered"), [(8, 4), (1, 7)])
def test_a_short_job_behind_a_long_one_waits_for_every_other_call_at_most(
    drawers: Callable[..., TorchEngine], max_batch: int, calls_until_answered: int
) -> None:
    engine = drawers(max_batch=max_batch)
    engine.admit("long", make_request(num_inference_steps=50))
    for _ in range(10):
        engine.step()
    calls = Calls(held(engine).unet)
    engine.admit("short", make_request(num_inference_steps=4))
    answered = False
    while not answered:
        answered = any(key == "short" and isinstance(e, Late) for key, e in engine.step())
    assert len(calls.rows) == calls_until_answered


class Desk:
    """A service whose worker's turns the test takes itself, over a real engine."""

    def __init__(self, engine: TorchEngine) -> None:
        self.engine = engine
        self.service = Service(lambda: engine)
        self.service._ledger.engine_came(engine)

    def turn(self) -> None:
        worker = self.service._worker
        worker.turn(self.engine)
        while worker.finisher.waiting:
            worker.finisher.finish_next()


def answered(session: Session) -> bool:
    """Whether a last answer is there; takes all that is."""
    events = []
    while len(session._outbox):
        events.append(session.take())
    return any(event is not None and isinstance(event[0], TERMINAL) for event in events)


@pytest.mark.parametrize(("max_batch", "calls_until_answered"), [(8, 4), (2, 4), (1, 2 * 4)])
def test_a_flood_of_one_client_takes_no_more_than_every_other_call_from_another(
    drawers: Callable[..., TorchEngine], max_batch: int, calls_until_answered: int
) -> None:
    engine = drawers(max_batch=max_batch)
    desk = Desk(engine)
    flood, other = desk.service.open_session(), desk.service.open_session()
    for number in range(64):
        flood.submit(make_request(id=str(number), seed=number))
    desk.turn()
    other.submit(make_request(id="mine", num_inference_steps=4))
    calls = Calls(held(engine).unet)
    while not answered(other):
        desk.turn()
    assert len(calls.rows) <= calls_until_answered
    assert desk.service.status().queued >= 64 - 2 * batches.LEAST_ACTIVE


def test_after_a_cancel_there_is_no_call_but_the_one_that_runs(
    drawers: Callable[..., TorchEngine],
) -> None:
    engine = drawers()
    desk = Desk(engine)
    session = desk.service.open_session()
    session.submit(make_request(id="mine", num_inference_steps=50))
    desk.turn()
    calls = Calls(held(engine).unet)
    held(engine).unet.register_forward_pre_hook(lambda *_: session.cancel("mine"))
    desk.turn()
    desk.turn()
    assert len(calls.rows) == 1
    assert not engine.is_busy()


def admitted(engine: TorchEngine, *owners: int, **fields: Any) -> None:
    for number, owner in enumerate(owners):
        engine.admit(f"{number} of {owner}", make_request(num_inference_steps=50, **fields), owner)


def test_owners_take_turns_however_much_each_has_and_whatever_it_is(
    drawers: Callable[..., TorchEngine],
) -> None:
    engine = drawers(max_batch=1)
    admitted(engine, 1, 1, 1, 1, 2, 3)
    admitted(engine, 2, width=128)
    served = [[key[-1] for key, _ in engine.step()] for _ in range(30)]
    assert [served.count([owner]) for owner in "123"] == [10, 10, 10]
    engine.step()
    turns = {key for _ in range(30) for key, _ in engine.step()}
    assert len(turns) == 7, "and all that each of them has"


def test_a_call_holds_one_of_each_owner_before_a_second_of_any(
    drawers: Callable[..., TorchEngine],
) -> None:
    engine = drawers(max_batch=3)
    admitted(engine, 1, 1, 1, 1, 2, 3)
    for _ in range(10):
        assert sorted(key[-1] for key, _ in engine.step()) == ["1", "2", "3"]


# --- measuring ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefer", "takes", "then"),
    [
        ("balanced", lambda rows: 1.0, [8, 16]),
        ("balanced", lambda rows: rows / 2, [2, 2]),
        ("latency", lambda rows: 1 + (rows - 2) / 4, [8, 4]),
        ("throughput", lambda rows: 1 + (rows - 2) / 4, [8, 16]),
    ],
)
def test_a_call_grows_while_that_pays(
    drawers: Callable[..., TorchEngine], prefer: str, takes: Callable[[int], float], then: list[int]
) -> None:
    engine = drawers(prefer=prefer)
    timed = Timed(engine, takes)
    crowd(engine)
    step(engine, 4 * ENOUGH)
    assert timed.rows == [rows for rows in (2, 4, *then) for _ in range(ENOUGH)]
    measured = {call.rows: call.seconds for call in engine.call_times()}
    assert measured == {rows: takes(rows) for rows in sorted({2, 4, *then})}


def test_what_is_tried_next_has_room_for_one_more_of_any_kind() -> None:
    assert max(len(kind.rows) for kind in (guidance.NONE, guidance.TEXT, guidance.EDIT)) == (
        MOST_ROWS_EACH
    )


def test_what_the_user_said_is_not_measured_away(drawers: Callable[..., TorchEngine]) -> None:
    engine = drawers(max_batch=3)
    timed = Timed(engine, lambda rows: float(rows**2))
    crowd(engine)
    step(engine, 20)
    assert timed.rows == [6] * 20


def test_one_request_alone_is_drawn_the_same_whatever_the_clock_says(
    drawers: Callable[..., TorchEngine],
) -> None:
    pictures = []
    for takes in (lambda rows: 1.0, lambda rows: float(rows**2)):
        engine = drawers()
        timed = Timed(engine, takes)
        for _ in range(2):
            done = last(run(engine, {"k": make_request(num_images=5, num_inference_steps=9)})["k"])
            pictures.append([picture.png for picture in done.images])
        assert set(timed.rows) == {10}
    assert all(other == pictures[0] for other in pictures)


def test_others_are_let_in_when_a_call_could_hold_more(drawers: Callable[..., TorchEngine]) -> None:
    engine = drawers()
    Timed(engine, lambda rows: 1.0)
    crowd(engine)
    assert not engine.has_room()
    step(engine, 4 * ENOUGH)
    assert not engine.has_room(), "nothing larger was asked for yet"
    step(engine, 1)
    assert engine.has_room()


def test_a_measured_network_that_gains_nothing_lets_no_more_in(
    drawers: Callable[..., TorchEngine],
) -> None:
    engine = drawers()
    Timed(engine, lambda rows: float(rows))
    crowd(engine)
    step(engine, 30)
    assert not engine.has_room()


def test_what_was_measured_goes_with_the_network(drawers: Callable[..., TorchEngine]) -> None:
    engine = drawers()
    known = engine._batches._known
    assert len(known) == 1
    unet = weakref.ref(held(engine).unet)
    engine._cache.free(())
    gc.collect()
    assert unet() is None
    assert len(known) == 0


def test_no_more_kinds_of_calls_are_remembered_than_fit(
    drawers: Callable[..., TorchEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_KINDS", 2)
    engine = drawers()
    for width in (64, 72, 80, 64):
        draw(engine, width=width, num_inference_steps=ENOUGH)
    (kinds,) = engine._batches._known.values()
    assert [kind[0][-1] for kind in kinds] == [10, 8]


def test_a_call_that_failed_is_no_measure(drawers: Callable[..., TorchEngine]) -> None:
    engine = drawers()
    timed = Timed(engine, lambda rows: 1.0)

    def fail(*_: Any) -> None:
        raise RuntimeError

    held(engine).unet.register_forward_pre_hook(fail)
    run(engine, {"k": make_request()})
    (kinds,) = engine._batches._known.values()
    assert timed.rows
    assert [sizes._made for sizes in kinds.values()] == [{}]
