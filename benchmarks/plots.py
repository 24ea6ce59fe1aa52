"""What a benchmark has to show as a picture, as one line of JSON that says how it is drawn.

Nothing is drawn here: `runai bench --plots` does that, of what a program has printed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Lines:
    """Curves over a common axis. `lines`: their points by what they are of."""

    plot: str  # the file's name
    title: str
    x: str
    y: str
    lines: dict[str, Sequence[Point]]


@dataclass(frozen=True)
class TimeLine:
    """Who was served when. `rows`: stretches (begin, end) in seconds by who it was."""

    plot: str
    title: str
    x: str
    rows: dict[str, Sequence[Point]]


def show(figure: Lines | TimeLine) -> None:
    """As one line that `runai bench` finds."""
    print(json.dumps(asdict(figure)))
