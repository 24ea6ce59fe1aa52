"""A GPU's own notes of time are read a turn later, and the host runs ahead by no more than that.

There is no GPU here: torch's events are stood in for by ones that the test lets happen.
"""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from runai.engine.device_clock import AHEAD, DeviceClock

GPU, PROCESSOR = torch.device("cuda:1"), torch.device("cpu")  # not the one that torch is at


class Event:
    """What torch.cuda.Event is to a clock. `done`: how many of them have happened, in order."""

    made: ClassVar[list[Event]] = []
    done: ClassVar[int] = 0
    waited: ClassVar[list[int]] = []

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.number = len(Event.made)
        Event.made.append(self)

    def record(self, stream: str) -> None:
        assert stream == f"the stream of {GPU}"

    def query(self) -> bool:
        return self.number < Event.done

    def synchronize(self) -> None:
        if not self.query():
            Event.waited.append(self.number)
            Event.done = self.number + 1

    def elapsed_time(self, later: Event) -> float:
        return 1000.0 * later.number


@pytest.fixture(autouse=True)
def _events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    Event.made, Event.done, Event.waited = [], 0, []


def test_a_processors_time_is_told_at_once() -> None:
    now, told = iter((3.0, 5.5)), list[float]()
    with DeviceClock(lambda: next(now)).time(PROCESSOR, told.append):
        assert told == []
    assert told == [2.5]


def test_where_no_time_can_be_taken_none_is_told() -> None:
    told, device = list[float](), torch.device("mps")
    with DeviceClock().time(device, told.append):
        pass
    assert not DeviceClock().can_time(device)
    assert told == []


def test_what_fails_has_no_time() -> None:
    told, clock = list[float](), DeviceClock()
    for device in (PROCESSOR, GPU):
        with pytest.raises(ZeroDivisionError), clock.time(device, told.append):
            raise ZeroDivisionError
    Event.done = 99
    with clock.time(GPU, told.append):
        pass
    assert told == []


def test_a_gpus_time_is_told_when_it_is_known_without_waiting() -> None:
    told, clock = list[float](), DeviceClock()
    with clock.time(GPU, told.append):
        pass
    assert told == []
    Event.done = 2
    with clock.time(GPU, told.append):
        assert told == [1.0]
    assert Event.waited == []


def test_the_host_waits_when_it_is_too_far_ahead_and_for_the_oldest_only() -> None:
    told, clock = list[float](), DeviceClock()
    for _ in range(AHEAD + 1):
        with clock.time(GPU, told.append):
            assert Event.waited == []
    with clock.time(GPU, told.append):
        assert Event.waited == [1]
        assert told == [1.0]
