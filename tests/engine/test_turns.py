"""What a turn is spent on where owners share: no owner's many hold up another's few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from drawn import Calls, Separate, Timed, crowd, held, make_request, step

from runai.engine.drawing import Drawing
from runai.engine.engine import TorchEngine
from runai.engine.pace import ENOUGH, Prefer
from runai.errors import OutOfMemory
from runai.schema.events import Failed
from runai.schema.late import Late


def admit(engine: TorchEngine, owner: int, *keys: str, **fields: Any) -> None:
    for key in keys:
        engine.admit(key, make_request(seed=1, **fields), owner)


def turns(engine: TorchEngine, calls: Calls, times: int) -> list[str]:
    """Of each turn the keys whose pictures were finished in it, or the rows of its call."""
    told = []
    for _ in range(times):
        before = len(calls.rows)
        ended = [key for key, event in engine.step() if isinstance(event, Late)]
        called = [str(rows) for rows in calls.rows[before:]]
        told.append("".join([*ended, *called]))
    return told


def test_pictures_that_are_done_at_once_hold_up_nobody_elses_steps(
    drawers: Callable[..., TorchEngine],
) -> None:
    engine = drawers(max_batch=8)
    calls = Calls(held(engine).unet)
    admit(engine, 1, "a", "b", "c", num_inference_steps=2)
    admit(engine, 2, "z", num_inference_steps=9)
    assert turns(engine, calls, 8) == ["8", "8", "a", "2", "b", "2", "c", "2"]


def test_of_each_owner_one_is_finished_in_a_turn(drawers: Callable[..., TorchEngine]) -> None:
    engine = drawers(max_batch=8)
    calls = Calls(held(engine).unet)
    admit(engine, 1, "a", "b", num_inference_steps=1)
    admit(engine, 2, "c", num_inference_steps=1)
    admit(engine, 3, "z", num_inference_steps=9)
    assert turns(engine, calls, 4) == ["8", "ac", "2", "b"]


def test_a_picture_that_cannot_be_made_takes_no_other_with_it(
    drawers: Callable[..., TorchEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = drawers(max_batch=8)
    complete = engine._pictures.complete

    def failing(drawing: Drawing, index: int) -> None:
        if drawing.key == "a":
            raise OutOfMemory("There is no room.")
        complete(drawing, index)

    monkeypatch.setattr(engine._pictures, "complete", failing)
    admit(engine, 1, "a", num_inference_steps=1)
    admit(engine, 2, "b", num_inference_steps=1)
    engine.step()
    assert {key: type(event) for key, event in engine.step()} == {"a": Failed, "b": Late}
    assert not engine.is_busy()


def test_who_begins_one_after_another_is_served_meanwhile(
    drawers: Callable[..., TorchEngine],
) -> None:
    engine = drawers(max_batch=1)
    admit(engine, 2, "b", num_inference_steps=50)
    admit(engine, 3, "c", num_inference_steps=50)
    served = []
    for number in range(9):
        admit(engine, 1, f"a{number}", num_inference_steps=50)
        served += [key[0] for key, _ in engine.step()]
    assert [served.count(owner) for owner in "abc"] == [3, 3, 3]


def test_where_nobody_else_has_steps_to_do_no_picture_waits(
    drawers: Callable[..., TorchEngine],
) -> None:
    engine = drawers(max_batch=8)
    calls = Calls(held(engine).unet)
    admit(engine, 1, "a", "b", num_inference_steps=1)
    admit(engine, 1, "z", num_inference_steps=2)
    assert turns(engine, calls, 5) == ["6", "a", "b", "2", "z"]
    assert not engine.is_busy()


def test_who_was_done_first_is_finished_first(drawers: Callable[..., TorchEngine]) -> None:
    engine = drawers(max_batch=8)
    calls = Calls(held(engine).unet)
    admit(engine, 1, "late", num_inference_steps=3)
    admit(engine, 1, "b", "a", num_inference_steps=2)
    admit(engine, 2, "z", num_inference_steps=9)
    assert turns(engine, calls, 8) == ["8", "8", "b", "4", "a", "2", "late", "2"]


def test_where_networks_are_moved_to_be_called_all_that_is_done_is_finished_at_once(
    drawers: Callable[..., TorchEngine],
) -> None:
    engine = drawers(max_batch=8)
    calls = Calls(held(engine).unet)
    engine._cache._place = Separate(torch.device("cpu"), torch.float32)
    admit(engine, 1, "a", "b", "c", num_inference_steps=2, memory_plan="offload")
    admit(engine, 2, "z", num_inference_steps=9)
    assert turns(engine, calls, 4) == ["8", "8", "abc", "2"]


def test_a_drawing_that_is_dropped_before_its_picture_is_made_is_never_finished(
    drawers: Callable[..., TorchEngine],
) -> None:
    engine = drawers()
    admit(engine, 1, "a", num_inference_steps=1)
    engine.step()
    engine.drop("a")
    assert engine.step() == []


# a row costs, and a call costs too: the more rows, the less each of them takes
def takes(rows: int) -> float:
    return 1 + (rows - 2) / 4


def crowded(engine: TorchEngine) -> Timed:
    """Its calls: eight samples of one owner are in it, and what calls take is known."""
    calls = Timed(engine, takes)
    crowd(engine)
    step(engine, 4 * ENOUGH)
    return calls


@pytest.mark.parametrize(
    ("prefer", "alone", "beside_one"), [("balanced", 16, 4), ("throughput", 16, 18)]
)
def test_a_call_is_no_longer_than_turns_would_be(
    drawers: Callable[..., TorchEngine], prefer: Prefer, alone: int, beside_one: int
) -> None:
    """One owner has eight, another has one: two calls of a single sample are its measure."""
    engine = drawers(prefer=prefer)
    calls = crowded(engine)
    assert calls.rows[-1] == alone
    admit(engine, 1, "mine", num_inference_steps=50)
    step(engine, 1)
    assert calls.rows[-1] == beside_one
    engine.drop("mine")
    step(engine, 1)
    assert calls.rows[-1] == alone


def test_who_cannot_share_a_call_waits_for_no_longer_one_than_its_own(
    drawers: Callable[..., TorchEngine],
) -> None:
    engine = drawers()
    calls = crowded(engine)
    admit(engine, 1, "wide", num_inference_steps=50, width=128)
    before = len(calls.rows)
    step(engine, 6)
    assert calls.rows[before:] == [2] * 6


@pytest.mark.parametrize(("prefer", "beside_one"), [("balanced", 2), ("throughput", 16)])
def test_a_request_for_many_pictures_makes_others_wait_for_one_at_a_time(
    drawers: Callable[..., TorchEngine], prefer: Prefer, beside_one: int
) -> None:
    """By the rule without a clock, which is for requests that nobody could share with."""
    engine = drawers(prefer=prefer)
    calls = Calls(held(engine).unet)
    admit(engine, 1, "many", num_inference_steps=50, num_images=8)
    assert turns(engine, calls, 1) == ["16"]
    admit(engine, 2, "wide", num_inference_steps=50, width=128)
    assert turns(engine, calls, 4).count(str(beside_one)) >= 2
    assert max(calls.rows[1:]) == beside_one


def test_owners_that_have_several_each_share_a_call_of_as_many(
    drawers: Callable[..., TorchEngine],
) -> None:
    engine = drawers()
    calls = crowded(engine)
    for key in "0123":
        engine.drop(key)
    admit(engine, 1, "a", "b", "c", "d", num_inference_steps=50)
    step(engine, 1)
    assert calls.rows[-1] == 16
