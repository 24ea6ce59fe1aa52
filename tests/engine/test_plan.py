"""Memory plans as arithmetic: which one is chosen, why, and what would fit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from runai.engine import plan as plans
from runai.engine.plan import PLANS, TILE, Plan, Room, Weights, Work, choose, needed
from runai.errors import OutOfMemory

GB = 10**9
SD1 = Weights(texts=(246_000_000,), unet=1_719_000_000, vae=167_000_000)  # in fp16
XL = Weights(texts=(246_000_000, 1_389_000_000), unet=5_135_000_000, vae=167_000_000)
SMALL = Work(512, 512, rows=2, element=2, vae_element=2)
LARGE = Work(1024, 1024, rows=2, element=2, vae_element=2)


@pytest.mark.parametrize(
    ("weights", "work", "free", "name"),
    [
        (SD1, SMALL, 24 * GB, "full"),
        (SD1, SMALL, int(2.9 * GB), "full"),
        (SD1, LARGE, int(4.7 * GB), "full"),
        (SD1, LARGE, int(4.5 * GB), "tiling"),
        (SD1, LARGE, 3 * GB, "offload"),
        (SD1, LARGE, 1 * GB, "sequential"),
        (XL, LARGE, 12 * GB, "full"),
        (XL, LARGE, 8 * GB, "tiling"),
        (XL, LARGE, 7 * GB, "offload"),
        (XL, LARGE, 4 * GB, "sequential"),
        (XL, LARGE, 0, "sequential"),
    ],
)
def test_the_first_plan_that_fits_is_chosen(
    weights: Weights, work: Work, free: int, name: str
) -> None:
    assert choose(weights, work, Room(free, separate=True)).name == name


def test_a_plan_is_chosen_up_to_the_last_byte() -> None:
    for plan, next_ in pairwise(PLANS):
        exact = needed(plan, XL, LARGE)
        assert choose(XL, LARGE, Room(exact, separate=True)).name == plan
        assert choose(XL, LARGE, Room(exact - 1, separate=True)).name == next_


@pytest.mark.parametrize("weights", [SD1, XL])
@pytest.mark.parametrize("side", [768, 1024, 2048])
def test_each_plan_needs_less_than_the_one_before(weights: Weights, side: int) -> None:
    work = replace(SMALL, width=side, height=side)
    needs = [needed(name, weights, work) for name in PLANS]
    assert needs == sorted(set(needs), reverse=True)


def test_the_reason_says_what_was_needed_and_what_was_free() -> None:
    tiling = choose(XL, LARGE, Room(8 * GB, separate=True))
    assert tiling.reason == "needs 9.5 GB, 8.0 GB free: tiling on"
    full = choose(SD1, SMALL, Room(24 * GB, separate=True))
    assert full.reason == "needs 2.8 GB, 24.0 GB free: everything stays on the device"
    event = full.as_event()
    assert (event.plan, event.reason) == ("full", full.reason)
    assert (event.needed_bytes, event.free_bytes) == (full.needed_bytes, 24 * GB)


@pytest.mark.parametrize("free", [1 * GB, 24 * GB])
@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_is_asked_for_is_taken_on_a_device_with_memory_of_its_own(
    name: plans.MemoryPlan, free: int
) -> None:
    plan = choose(XL, LARGE, Room(free, separate=True), name)
    assert plan.name == name
    assert plan.reason.startswith("asked for: ")


def test_in_main_memory_there_is_nothing_to_offload_to() -> None:
    room = Room(16 * GB, separate=False)
    for name in ("offload", "sequential"):
        plan = choose(SD1, LARGE, room, name)
        assert plan.name == "tiling"
        assert plan.reason == "weights can be in main memory only: tiling on"
    assert choose(SD1, LARGE, Room(int(4.5 * GB), separate=False)).name == "tiling"


@pytest.mark.parametrize("wanted", [None, "full", "sequential"])
def test_main_memory_is_never_overdrawn(wanted: plans.MemoryPlan | None) -> None:
    with pytest.raises(OutOfMemory) as caught:
        choose(SD1, LARGE, Room(int(2.9 * GB), separate=False), wanted)
    assert caught.value.message == "1024×1024 pixels need 3.1 GB with this model; 2.9 GB are free."
    assert caught.value.hint == "896×896 would fit: ask for a smaller picture."
    fits = replace(LARGE, width=896, height=896)
    assert choose(SD1, fits, Room(int(2.9 * GB), separate=False)).name == "tiling"
    with pytest.raises(OutOfMemory):
        choose(SD1, replace(LARGE, width=960, height=960), Room(int(2.9 * GB), separate=False))


def test_a_model_that_cannot_draw_anything_is_too_large() -> None:
    with pytest.raises(OutOfMemory) as caught:
        choose(XL, SMALL, Room(4 * GB, separate=False))
    assert caught.value.hint == "Use a smaller model, or give the server more memory."


@pytest.mark.parametrize(
    ("separate", "before", "after"),
    [
        (True, "full", "tiling"),
        (True, "tiling", "offload"),
        (True, "offload", "sequential"),
        (True, "sequential", "sequential"),
        (False, "full", "tiling"),
        (False, "tiling", "tiling"),
    ],
)
def test_after_memory_ran_out_the_next_plan_comes(
    separate: bool, before: plans.MemoryPlan, after: str
) -> None:
    plan = plans.lower(Plan(before, "", SD1, LARGE, Room(24 * GB, separate)))
    assert plan.name == after
    assert plan.reason.startswith(f"{before} ran out of memory: ")


def test_a_plan_that_would_gain_nothing_is_passed_over() -> None:
    small = Plan("full", "", SD1, SMALL, Room(24 * GB, separate=True))
    assert plans.lower(small).name == "offload"  # a picture of one tile is not cut up


def test_what_failed_although_it_should_have_fitted_is_to_be_halved() -> None:
    error = plans.failed(Plan("tiling", "", SD1, LARGE, Room(24 * GB, separate=False)))
    assert error.hint == "704×704 would fit: ask for a smaller picture."


def test_the_strictest_plan_serves_all() -> None:
    assert plans.strictest(["full", "sequential", "tiling"]) == "sequential"
    assert plans.strictest(["tiling", "full"]) == "tiling"


def test_tiles_bound_what_decoding_takes() -> None:
    whole = [replace(SMALL, width=TILE * n, height=TILE).decode_bytes(tiled=False) for n in (1, 4)]
    tiles = [replace(SMALL, width=TILE * n, height=TILE).decode_bytes(tiled=True) for n in (1, 4)]
    assert whole[1] > 3 * whole[0]
    assert tiles[1] < 1.1 * tiles[0]


@pytest.mark.parametrize(
    ("work", "measured_mb", "part"),
    [
        # growth of a process, full-size SD 1 on a processor: benchmarks/memory_peaks.py
        (Work(256, 256, 2, 4, 4), 350, "decode"),
        (Work(512, 512, 2, 4, 4), 1031, "decode"),
        (Work(512, 512, 2, 2, 2), 560, "decode"),
        (Work(768, 768, 2, 2, 2), 1261, "decode"),
        (Work(1024, 1024, 2, 2, 2), 2259, "decode"),
        (Work(768, 768, 2, 2, 2), 578, "tiles"),
        (Work(1024, 1024, 2, 2, 2), 642, "tiles"),
        (Work(256, 256, 2, 4, 4), 165, "unet"),
        (Work(512, 512, 2, 2, 2), 181, "unet"),
        (Work(512, 512, 2, 4, 4), 333, "unet"),
    ],
)
def test_the_estimate_covers_what_was_measured_and_not_more_than_twice_that(
    work: Work, measured_mb: int, part: str
) -> None:
    estimates = {
        "decode": work.decode_bytes(tiled=False),
        "tiles": work.decode_bytes(tiled=True),
        "unet": work.unet_bytes,
    }
    assert 1 <= estimates[part] / 1e6 / measured_mb <= 2
