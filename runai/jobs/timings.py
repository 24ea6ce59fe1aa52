"""How long each stage took since the start: counts, means and percentiles in little memory.

Theory of operation. A stage's durations are counted in buckets whose bounds grow by `RATIO`
each, so a percentile is right to 5 % whatever its size, and two hundred numbers hold an hour.
Percentiles keep within the shortest and longest that were seen.

Pure; whoever calls it holds the ledger's lock.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import get_args

from runai.schema.events import StageTimings
from runai.schema.stages import Stage

LEAST_S = 1e-5  # all that is shorter is in the first bucket
RATIO = 1.1


class Durations:
    """Those of one stage."""

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self._least_s, self._most_s = math.inf, 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total_s += seconds
        self._least_s = min(self._least_s, seconds)
        self._most_s = max(self._most_s, seconds)
        self._buckets[math.ceil(math.log(max(seconds, LEAST_S) / LEAST_S, RATIO))] += 1

    def percentile(self, part: float) -> float:
        """The seconds that this part of all, from 0 to 1, took at most; needs one at least."""
        rank, seen = part * self.count, 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                break
        middle: float = LEAST_S * RATIO ** (bucket - 0.5)
        return min(max(middle, self._least_s), self._most_s)


class Timings:
    """All stages'."""

    def __init__(self) -> None:
        self._of: dict[Stage, Durations] = {stage: Durations() for stage in get_args(Stage)}

    def add(self, stage: Stage, seconds: float) -> None:
        self._of[stage].add(seconds)

    def as_events(self) -> Sequence[StageTimings]:
        """Of the stages that there was anything of yet, in their order."""
        return [
            StageTimings(
                stage=stage,
                count=durations.count,
                mean_s=durations.total_s / durations.count,
                p50_s=durations.percentile(0.5),
                p95_s=durations.percentile(0.95),
            )
            for stage, durations in self._of.items()
            if durations.count
        ]
