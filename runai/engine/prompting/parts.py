"""What a prompt says, free of any syntax: the form into which every dialect is read.

Script       compositions, each in force from a step on
Composition  parts, put one after the other (most prompts have one)
Part         lines, mixed by their shares (most parts have one), and the weight of the mix
Line         fragments of text with weights, and breaks: begin a new chunk here
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from runai.errors import InvalidField

# past this, half-precision embeddings (values up to about 30) overflow; 2 is a lot already
MAX_WEIGHT = 1000.0
# sign, digits and a decimal point; a comma is read too, for people who count that way
NUMBER = r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)"


@dataclass(frozen=True)
class Fragment:
    """Text, with how strongly it counts: 1 as ever."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Break:
    """The text that follows begins a new chunk."""


BREAK = Break()
Line = tuple[Fragment | Break, ...]


@dataclass(frozen=True)
class Part:
    """Lines mixed linearly, `shares` of each; `weight` 0 would be the empty text."""

    lines: tuple[Line, ...]
    shares: tuple[float, ...] = (1.0,)
    weight: float = 1.0


Composition = tuple[Part, ...]
Script = tuple[tuple[int, Composition], ...]


def number(text: str) -> float:
    """The value of what `NUMBER` matches."""
    return float(text.replace(",", "."))


def fragment(text: str, weight: float, field: str) -> Fragment:
    """A fragment; InvalidField where its brackets add up to too much."""
    if text.strip() and not abs(weight) <= MAX_WEIGHT:  # also where it is not a number
        raise InvalidField(
            f"The weight of {text.strip()[:40]!r} is past {MAX_WEIGHT:.0f}.",
            hint="Use smaller weights or fewer brackets; escape brackets that are text: \\(.",
            field=field,
        )
    return Fragment(text, weight)


def fused(pieces: Iterable[Fragment | Break], between: str = "") -> Line:
    """A line in which neighbours of equal weight are one fragment, their texts joined."""
    line: list[Fragment | Break] = []
    for kind, run in groupby(pieces, lambda p: p.weight if isinstance(p, Fragment) else None):
        if kind is None:
            line.extend(run)
        else:
            texts = [piece.text for piece in run if isinstance(piece, Fragment)]
            line.append(Fragment(between.join(texts), kind))
    return tuple(line)
