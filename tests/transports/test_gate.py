"""Who may come in, and how those are slowed down who guess."""

from __future__ import annotations

import pytest

from runai.errors import Unauthorized
from runai.transports import gate as gate_module
from runai.transports.gate import MOST_DELAY_S, Gate, Keys

TOKEN = "correct horse battery staple"


def guess(gate: Gate, origin: str, token: str = "wrong") -> None:
    with pytest.raises(Unauthorized):
        gate.check(origin, token)


def test_the_right_token_comes_in_and_no_other() -> None:
    gate = Gate(Keys(TOKEN))
    gate.check("a", TOKEN)
    for wrong in ("", TOKEN[:-1], TOKEN + " ", TOKEN.upper(), "\ud800", "x" * 1000):
        guess(gate, "a", wrong)


def test_what_is_asked_for_is_told_in_words() -> None:
    assert Gate().is_open and not Gate().asks_token
    assert Gate().describe() == "for all who reach it, without a token"
    assert not Gate(Keys(TOKEN)).is_open
    assert Gate(Keys(TOKEN)).describe() == "with a token"


def test_each_wrong_token_makes_the_next_answer_later_up_to_a_bound() -> None:
    gate = Gate(Keys(TOKEN))
    assert gate.delay_s("a") == 0.0
    delays = []
    for _ in range(20):
        guess(gate, "a")
        delays.append(gate.delay_s("a"))
    assert delays[:4] == [0.25, 0.5, 1.0, 2.0]
    assert delays[-1] == MOST_DELAY_S
    assert gate.delay_s("b") == 0.0


def test_the_right_token_does_not_help_who_guesses_beside_it() -> None:
    gate = Gate(Keys(TOKEN))
    guess(gate, "a")
    gate.check("a", TOKEN)
    guess(gate, "a")
    assert gate.delay_s("a") == 0.5


def test_after_a_while_it_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(Keys(TOKEN))
    for _ in range(5):
        guess(gate, "a")
    monkeypatch.setattr(gate_module, "FORGIVEN_S", -1.0)
    guess(gate, "a")
    assert gate.delay_s("a") == 0.25


def test_what_is_remembered_of_guessers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "MAX_ORIGINS", 3)
    gate = Gate(Keys(TOKEN))
    for origin in "abcad":
        guess(gate, origin)
    assert [gate.delay_s(origin) for origin in "abcd"] == [0.5, 0.0, 0.25, 0.25]


def test_new_keys_hold_for_those_who_come_from_then_on() -> None:
    gate = Gate(Keys(TOKEN))
    gate.change(Keys("another token of some length"))
    guess(gate, "a", TOKEN)
    gate.check("a", "another token of some length")
