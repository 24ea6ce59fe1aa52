"""What is left out on request: guidance at some steps, and the deep part of the UNet at others."""

from __future__ import annotations

from typing import Any

import pytest
from drawn import Calls, draw, held, last, make_request, pixels, run
from reference import worst

from runai.engine.engine import TorchEngine

WORDS = {"prompt": "a cat", "negative_prompt": "b"}
SHARED = {"num_inference_steps": 8, "guidance_scale": 5.0, **WORDS}


def rows_of(engine: TorchEngine, **fields: Any) -> list[int]:
    """Of each whole UNet call of a request that is drawn alone."""
    draw(engine)
    calls = Calls(held(engine).unet.down_blocks[-1].resnets[0])  # which is called in no other
    draw(engine, **SHARED, **fields)
    return calls.rows


# --- guidance at some steps ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("within", "rows"),
    [
        ((0.0, 1.0), [2] * 8),
        ((0.0, 0.5), [2] * 4 + [1] * 4),
        ((0.25, 0.75), [1, 1, 2, 2, 2, 2, 1, 1]),
        ((0.0, 0.0), [1] * 8),
        ((1.0, 1.0), [1] * 8),
        ((0.9, 0.1), [1] * 8),
    ],
)
def test_a_step_that_is_not_guided_takes_one_row(
    engine: TorchEngine, within: tuple[float, float], rows: list[int]
) -> None:
    begin, end = within
    assert rows_of(engine, guidance_start=begin, guidance_end=end) == rows


def test_both_halves_of_a_step_of_the_second_order_are_guided_or_neither(
    engine: TorchEngine,
) -> None:
    assert rows_of(engine, sampler="heun", guidance_end=0.5) == [2] * 8 + [1] * 7


def test_a_picture_that_is_never_guided_is_the_one_without_guidance(engine: TorchEngine) -> None:
    without = draw(engine, **{**SHARED, "guidance_scale": 1.0})
    assert (draw(engine, **SHARED, guidance_end=0.0) == without).all()
    assert (draw(engine, **SHARED, guidance_end=0.5) != without).any()


# --- the deep part of the UNet at some steps -------------------------------------------------


@pytest.mark.parametrize(("every", "whole"), [(1, 8), (2, 4), (3, 3), (10, 1)])
def test_the_whole_unet_is_called_as_often_as_asked(
    engine: TorchEngine, every: int, whole: int
) -> None:
    assert rows_of(engine, reuse=every) == [2] * whole


def test_guidance_that_ends_needs_the_whole_unet(engine: TorchEngine) -> None:
    assert rows_of(engine, reuse=4, guidance_end=0.25) == [2, 1, 1]


def test_a_picture_that_reuses_is_another_and_the_same_each_time(engine: TorchEngine) -> None:
    exact, once, twice = (draw(engine, **SHARED, reuse=every) for every in (1, 3, 3))
    assert (once != exact).any()
    assert (once == twice).all()


def test_who_reuses_and_who_does_not_share_whole_calls_and_spoil_nothing(
    engine: TorchEngine,
) -> None:
    wanted = {
        "exact": make_request(id="exact", **SHARED),
        "reused": make_request(id="reused", **SHARED, reuse=2),
    }
    alone = {key: run(engine, {key: request})[key] for key, request in wanted.items()}
    calls = Calls(held(engine).unet)
    together = run(engine, wanted)
    assert 4 in calls.rows
    for key, events in together.items():
        assert worst(pixels(last(alone[key])), pixels(last(events))) <= 1
    assert {key: last(events).parameters.reuse for key, events in together.items()} == {
        "exact": None,
        "reused": 2,
    }


def test_nothing_is_kept_of_a_picture_that_is_done(engine: TorchEngine) -> None:
    engine.admit("k", make_request(**SHARED, reuse=2, num_images=2))
    drawing = engine._drawings["k"]
    engine.step()
    assert all(sample.kept is not None for sample in drawing.samples)
    while engine.is_busy():
        engine.step()
    assert all(sample.kept is None for sample in drawing.samples)
