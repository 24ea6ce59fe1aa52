"""Who counts, and when that ends a server."""

from __future__ import annotations

import pytest

from runai.transports.roll import Roll, StopReason


def roll(
    *,
    keep_alive: bool = False,
    first_client_by: float | None = None,
    idle_exit_s: float | None = None,
) -> Roll[str]:
    return Roll(keep_alive=keep_alive, first_client_by=first_client_by, idle_exit_s=idle_exit_s)


def test_without_a_time_set_a_server_waits_for_ever() -> None:
    assert roll().reason_to_end(1e9) is None
    assert roll().time_left(1e9) is None


def test_nobody_came_when_the_time_is_over() -> None:
    waiting = roll(first_client_by=10.0)
    assert waiting.reason_to_end(9.9) is None
    assert waiting.time_left(9.0) == 1.0
    assert waiting.reason_to_end(10.0) is StopReason.NOBODY_CAME
    assert waiting.time_left(11.0) == 0.0


def test_somebody_who_came_stops_the_clock() -> None:
    waiting = roll(first_client_by=10.0)
    waiting.enter("a")
    assert waiting.time_left(9.0) is None
    assert waiting.reason_to_end(11.0) is None


def test_an_observer_is_nobody() -> None:
    waiting = roll(first_client_by=10.0)
    waiting.enter("a")
    waiting.observe("a")
    assert waiting.reason_to_end(9.0) is None
    assert waiting.reason_to_end(11.0) is StopReason.NOBODY_CAME
    waiting.leave("a")
    assert waiting.reason_to_end(9.0) is None


def test_a_refused_one_is_nobody() -> None:
    waiting = roll()
    waiting.enter("a", counts=False)
    waiting.leave("a")
    assert waiting.reason_to_end(0.0) is None


def test_the_last_clients_leaving_ends_a_server() -> None:
    busy = roll()
    for name in ("a", "b", "watching"):
        busy.enter(name)
    busy.observe("watching")
    busy.leave("a")
    assert busy.reason_to_end(0.0) is None
    busy.leave("b")
    assert busy.reason_to_end(0.0) is StopReason.CLIENT_LEFT
    assert busy.present() == ["watching"]


@pytest.mark.parametrize("first_client_by", [None, 10.0])
def test_a_server_that_is_kept_alive_outlives_its_clients(first_client_by: float | None) -> None:
    kept = roll(keep_alive=True, first_client_by=first_client_by)
    kept.enter("a")
    kept.leave("a")
    assert kept.reason_to_end(11.0) is None
    assert kept.time_left(11.0) is None


def test_those_who_left_are_named_once() -> None:
    busy = roll()
    busy.enter("a")
    busy.leave("a")
    assert busy.take_gone() == ["a"]
    assert busy.take_gone() == []


@pytest.mark.parametrize("keep_alive", [False, True])
def test_who_is_to_end_when_idle_ends_then_and_not_before(keep_alive: bool) -> None:
    waiting = roll(keep_alive=keep_alive, idle_exit_s=60.0)
    assert waiting.reason_to_end(100.0) is None
    assert waiting.time_left(110.0) == 50.0
    waiting.enter("a")
    assert waiting.reason_to_end(150.0) is None
    assert waiting.time_left(200.0) is None
    waiting.leave("a")
    assert waiting.reason_to_end(300.0) is None
    assert waiting.reason_to_end(359.9) is None
    assert waiting.time_left(359.0) == 1.0
    assert waiting.reason_to_end(360.0) is StopReason.IDLE


def test_an_observer_keeps_nobody_from_being_idle() -> None:
    waiting = roll(idle_exit_s=60.0)
    assert waiting.reason_to_end(0.0) is None
    waiting.enter("a", counts=False)
    assert waiting.reason_to_end(60.0) is StopReason.IDLE


def test_one_that_could_not_be_served_has_never_come() -> None:
    waiting = roll(first_client_by=10.0)
    waiting.enter("a")
    waiting.withdraw("a")
    assert waiting.present() == [] and waiting.take_gone() == []
    assert waiting.reason_to_end(9.0) is None
    assert waiting.reason_to_end(10.0) is StopReason.NOBODY_CAME
