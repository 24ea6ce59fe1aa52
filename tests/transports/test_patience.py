"""How long a client is waited for, in every state."""

from __future__ import annotations

import pytest

from runai.transports.options import SocketOptions
from runai.transports.patience import Patience

OPTIONS = SocketOptions(auth_timeout_s=10.0, message_timeout_s=60.0, idle_timeout_s=0.0)
IDLE = SocketOptions(auth_timeout_s=10.0, message_timeout_s=60.0, idle_timeout_s=300.0)


def test_a_stranger_has_so_long_to_show_its_token_whatever_it_sends() -> None:
    patience = Patience(OPTIONS, 100.0, admitted=False)
    assert patience.time_left(103.0) == 7.0
    patience.hear(104.0, whole=False, midway=True)
    patience.hear(105.0, whole=True, midway=False)
    assert patience.time_left(109.0) == 1.0
    assert "No token came within 10 s." in patience.complaint().message
    patience.admit()
    assert patience.time_left(109.0) is None


def test_a_message_has_so_long_from_its_first_byte_however_it_trickles_in() -> None:
    patience = Patience(OPTIONS, 0.0, admitted=True)
    assert patience.time_left(1000.0) is None
    for now in (1000.0, 1020.0, 1059.0):
        patience.hear(now, whole=False, midway=True)
    assert patience.time_left(1059.0) == 1.0
    assert not patience.is_idle
    assert "longer than 60 s" in patience.complaint().message


def test_the_next_message_has_its_own_time() -> None:
    patience = Patience(OPTIONS, 0.0, admitted=True)
    patience.hear(10.0, whole=False, midway=True)
    patience.hear(50.0, whole=True, midway=True)  # the end of one and the start of another
    assert patience.time_left(50.0) == 60.0
    patience.hear(60.0, whole=True, midway=False)
    assert patience.time_left(60.0) is None


@pytest.mark.parametrize(("now", "left"), [(0.0, 300.0), (299.0, 1.0), (301.0, -1.0)])
def test_who_says_nothing_is_left_where_that_is_set(now: float, left: float) -> None:
    patience = Patience(IDLE, 0.0, admitted=True)
    assert patience.time_left(now) == left
    assert patience.is_idle
    assert "Nothing was asked for 300 s." in patience.complaint().message


def test_who_waits_for_us_is_not_idle() -> None:
    patience = Patience(IDLE, 0.0, admitted=True)
    patience.rest(290.0)
    assert patience.time_left(300.0) == 290.0
    patience.hear(400.0, whole=True, midway=False)
    assert patience.time_left(400.0) == 300.0
