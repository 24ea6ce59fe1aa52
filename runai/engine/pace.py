"""How many rows a UNet call is to have, learned from the calls that are made anyway.

Theory of operation. Calls of one kind (`Sample.kind`) differ in their rows alone. Of each number
of rows the newest times are kept, and their median counts, so that one hiccup decides nothing. A
policy chooses among the sizes that are known: what a larger call gains (less time a row) against
what it costs (everybody in it, a newcomer and a cancel wait for its end). Where the largest that is
known is the one to choose, about twice as many rows are tried as soon as there are as many;
where a larger one was worse it is tried again now and then, for what is best may change.

Pure: no clock and no network. Who takes the times is `batches`; what memory has room for is
`fitting`'s business.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Prefer = Literal["balanced", "throughput", "latency"]
KEPT = 5  # times of each size: recent ones, the median of which two hiccups do not move
ENOUGH = 3  # of them to know a size: fewer have no middle
RETRY = 256  # calls until a size that was too large is tried again: less than 1 % is lost by it
MOST_ROWS_EACH = 3  # of one sample: see `guidance`
MOST_ROWS = 64  # no size beyond is tried: a network that gains that far is small


@dataclass(frozen=True)
class Policy:
    """The smallest call is chosen that takes at most `worse` × the least time per row; but none
    that takes more than `longest` × as long as one that holds a single sample. `patient`: however
    many wait for its end.
    """

    worse: float
    longest: float = math.inf
    patient: bool = False

    def within(self, longest: float) -> Policy:
        """The same where others wait, for at most `longest` × as long as for a single sample."""
        return self if self.patient else replace(self, longest=min(self.longest, longest))


POLICIES: Mapping[Prefer, Policy] = {
    # a tenth of the speed is little against a turn of half the length, which that often buys: a
    # processor busy with one picture is given one, a GPU as many as fill it
    "balanced": Policy(worse=1.10),
    # the same work twice differs by 2 %: what is within is no worse
    "throughput": Policy(worse=1.02, patient=True),
    # who comes in while others are drawn notices half a step more, not yet a whole one
    "latency": Policy(worse=1.02, longest=1.5),
}


class Sizes:
    """What is known of calls of one kind. `known`: seconds by rows, medians."""

    def __init__(self) -> None:
        self.known: dict[int, float] = {}
        self._newest: dict[int, deque[float]] = {}
        self._made: dict[int, int] = {}  # the number of the newest call of each size
        self._calls = 0

    def add(self, rows: int, seconds: float) -> None:
        """A call of so many rows took so long."""
        self._calls += 1
        self._made[rows] = self._calls
        newest = self._newest.setdefault(rows, deque(maxlen=KEPT))
        newest.append(seconds)
        if len(newest) >= ENOUGH:
            self.known[rows] = statistics.median(newest)

    def limit(self, least: int, policy: Policy) -> int:
        """The most rows for the next call, whose first sample has `least`."""
        if least not in self.known:  # a sample alone is what all else is measured by
            return least
        ladder = self._ladder(least)
        chosen = choose(ladder, policy)
        if any(rows > chosen and self._is_fresh(rows) for rows in ladder):
            return chosen
        return max(chosen, min(_more(chosen), MOST_ROWS))

    def _ladder(self, least: int) -> dict[int, float]:
        """What is known from `least` on, up to the first gap: the best may lie in one."""
        ladder, top = {}, least
        for rows in sorted(self.known):
            if least <= rows <= _more(top):
                ladder[rows], top = self.known[rows], rows
        return ladder

    def _is_fresh(self, rows: int) -> bool:
        return self._calls - self._made[rows] < RETRY


def _more(rows: int) -> int:
    """What to try after so many: twice as many, but at least one picture more."""
    return max(2 * rows, rows + MOST_ROWS_EACH)


def choose(known: Mapping[int, float], policy: Policy) -> int:
    """The best of the sizes that are known, one at least: seconds by rows."""
    most_s = policy.longest * known[min(known)]
    each = {rows: seconds / rows for rows, seconds in known.items() if seconds <= most_s}
    bound = policy.worse * min(each.values())
    return min(rows for rows, one in each.items() if one <= bound)
