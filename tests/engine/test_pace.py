"""How many rows the next call may have: a table in, a number out."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest

from runai.engine.pace import ENOUGH, MOST_ROWS, POLICIES, RETRY, Prefer, Sizes, choose
from runai.settings import ROWS

# seconds by rows, as they were met: what batching gains differs from network to network
BUSY = {2: 1.0, 4: 2.0, 8: 4.0, 16: 8.0}  # a processor, busy with one picture
FLAT = {2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0}  # a network so small that the call itself costs
KNEE = {2: 1.0, 4: 1.1, 8: 1.4, 16: 2.7, 32: 5.2}  # a GPU that is full at 8 rows
WORSE = {2: 1.0, 4: 1.8, 8: 6.0}  # one that runs out of cache


@pytest.mark.parametrize(
    ("known", "balanced", "throughput", "latency"),
    [
        (BUSY, 2, 2, 2),
        (FLAT, 16, 16, 16),
        (KNEE, 8, 32, 8),
        (WORSE, 4, 4, 2),
        ({2: 1.0}, 2, 2, 2),
        ({1: 1.0, 2: 1.75, 3: 2.5}, 2, 3, 1),
    ],
)
def test_the_policies_choose_among_what_is_known(
    known: dict[int, float], balanced: int, throughput: int, latency: int
) -> None:
    chosen = {name: choose(known, policy) for name, policy in POLICIES.items()}
    assert chosen == {"balanced": balanced, "throughput": throughput, "latency": latency}


@pytest.mark.parametrize(
    ("longest", "balanced", "throughput", "latency"),
    [(1.0, 2, 32, 2), (1.25, 4, 32, 4), (2.0, 8, 32, 8), (math.inf, 8, 32, 8)],
)
def test_where_others_wait_a_call_takes_no_longer_than_they_do(
    longest: float, balanced: int, throughput: int, latency: int
) -> None:
    chosen = {name: choose(KNEE, policy.within(longest)) for name, policy in POLICIES.items()}
    assert chosen == {"balanced": balanced, "throughput": throughput, "latency": latency}


def test_every_preference_of_the_settings_has_its_policy() -> None:
    for name in POLICIES:
        assert ROWS["prefer"].kind.read(name) == name
        assert name in ROWS["prefer"].kind.allowed


def served(
    sizes: Sizes,
    takes: Callable[[int], float],
    *,
    calls: int,
    ready: int = 32,
    each: int = 2,
    prefer: Prefer = "balanced",
) -> list[int]:
    """The rows of so many calls with so many rows ready, of samples of `each`."""
    made = []
    for _ in range(calls):
        rows = min(sizes.limit(each, POLICIES[prefer]), ready) // each * each
        sizes.add(rows, takes(rows))
        made.append(rows)
    return made


def test_one_sample_comes_first_and_twice_as_many_once_that_is_known() -> None:
    made = served(Sizes(), lambda rows: 1.0, calls=5 * ENOUGH)
    assert made == [rows for rows in (2, 4, 8, 16, 32) for _ in range(ENOUGH)]


def test_a_larger_call_that_gains_nothing_is_tried_and_given_up() -> None:
    made = served(Sizes(), lambda rows: rows / 2, calls=50)
    assert made == [2] * ENOUGH + [4] * ENOUGH + [2] * (50 - 2 * ENOUGH)


def test_what_was_too_large_is_tried_again_now_and_then() -> None:
    sizes = Sizes()
    served(sizes, lambda rows: rows / 2, calls=2 * ENOUGH)
    made = served(sizes, lambda rows: rows / 2, calls=3 * RETRY)
    assert made.count(4) == 2
    made = served(sizes, lambda rows: 1.0, calls=4 * RETRY)
    assert made[-1] == 32, "the machine has changed"


@pytest.mark.parametrize("at", range(12))
def test_one_hiccup_decides_nothing(at: int) -> None:
    sizes, calls = Sizes(), iter(range(100))
    made = served(sizes, lambda rows: 60.0 if next(calls) == at else 1.0, calls=40)
    assert made[-1] == 32


def test_no_size_is_tried_beyond_the_largest() -> None:
    made = served(Sizes(), lambda rows: 1.0, calls=60, ready=1000)
    assert max(made) == MOST_ROWS


def test_samples_of_one_and_of_two_rows_come_together() -> None:
    """A call that holds one without guidance and one with has three rows: more than twice one."""
    sizes = Sizes()
    for _ in range(ENOUGH):
        sizes.add(1, 1.0)
    assert sizes.limit(1, POLICIES["balanced"]) >= 1 + 2


def test_a_size_beyond_a_gap_does_not_hide_what_is_in_it() -> None:
    """One request drew many pictures alone: nothing is known of what lies between."""
    sizes = Sizes()
    for rows, _ in product((2, 32), range(ENOUGH)):
        sizes.add(rows, 1.0 if rows == 2 else 15.0)
    assert sizes.limit(2, POLICIES["balanced"]) == 5
    alone = Sizes()
    for _ in range(ENOUGH):
        alone.add(16, 1.0)
    assert alone.limit(2, POLICIES["balanced"]) == 2, "a single one is what all is measured by"


def test_a_number_that_is_not_enough_times_measured_is_not_known() -> None:
    sizes = Sizes()
    for _ in range(ENOUGH - 1):
        sizes.add(2, 1.0)
    assert sizes.known == {}
    sizes.add(2, 3.0)
    assert sizes.known == {2: 1.0}
