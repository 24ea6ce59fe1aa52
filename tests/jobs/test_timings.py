"""Percentiles out of buckets."""

from __future__ import annotations

import random

import pytest

from runai.jobs.timings import Durations, Timings


@pytest.mark.parametrize("scale", [1e-4, 0.03, 5.0, 4000.0])
def test_percentiles_are_right_to_five_percent(scale: float) -> None:
    chance = random.Random(1)
    seconds = [scale * chance.uniform(0.1, 3.0) for _ in range(999)]
    durations = Durations()
    for one in seconds:
        durations.add(one)
    for part in (0.05, 0.5, 0.95):
        exact = sorted(seconds)[round(part * 999) - 1]
        assert durations.percentile(part) == pytest.approx(exact, rel=0.055)


def test_a_single_duration_is_its_own_percentile_and_mean() -> None:
    timings = Timings()
    timings.add("step", 0.25)
    (said,) = timings.as_events()
    assert (said.stage, said.count) == ("step", 1)
    assert (said.mean_s, said.p50_s, said.p95_s) == (0.25, 0.25, 0.25)


def test_nothing_and_no_time_at_all_are_durations_too() -> None:
    timings = Timings()
    assert timings.as_events() == []
    timings.add("queue", 0.0)
    timings.add("queue", 0.0)
    (said,) = timings.as_events()
    assert (said.count, said.mean_s, said.p95_s) == (2, 0.0, 0.0)


def test_stages_come_in_the_order_of_a_requests_life() -> None:
    timings = Timings()
    for stage in ("png", "load", "step"):
        timings.add(stage, 1.0)  # type: ignore[arg-type]
    assert [said.stage for said in timings.as_events()] == ["load", "step", "png"]


def test_many_different_durations_take_little_room() -> None:
    durations = Durations()
    for number in range(50_000):
        durations.add(number / 7)
    assert len(durations._buckets) < 250
