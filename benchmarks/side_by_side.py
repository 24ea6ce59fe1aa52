"""Two things timed in one run, taking turns, as a ratio with its spread.

Taking turns makes both see the same machine: what slows one slows the other. The ratio is
of the medians; its spread is that of the ratios of neighbours.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass

Timed = Callable[[], float]


@dataclass(frozen=True)
class Comparison:
    """Seconds of ours and theirs, median each; the ratio and its lowest and highest."""

    name: str
    ours_s: float
    theirs_s: float
    ratio: float
    lowest: float
    highest: float
    rounds: int
    machine: str

    def show(self) -> None:
        print(
            f"{self.name}: {self.ratio:.2f} × ({self.lowest:.2f}–{self.highest:.2f}); "
            f"ours {self.ours_s:.4f} s, theirs {self.theirs_s:.4f} s, {self.rounds} rounds"
        )
        print(json.dumps(asdict(self)))


def compare(
    name: str, ours: Timed, theirs: Timed, *, rounds: int, warm: bool = False
) -> Comparison:
    """Run both `rounds` times in turn, after one round that does not count, or all is `warm`."""
    if not warm:
        ours(), theirs()
    pairs = []
    for i in range(rounds):
        if i % 2:
            second, first = theirs(), ours()
        else:
            first, second = ours(), theirs()
        pairs.append((first, second))
    mine = statistics.median(a for a, _ in pairs)
    other = statistics.median(b for _, b in pairs)
    ratios = [a / b for a, b in pairs]
    return Comparison(
        name,
        mine,
        other,
        mine / other,
        min(ratios),
        max(ratios),
        rounds,
        platform.processor() or platform.machine(),
    )
