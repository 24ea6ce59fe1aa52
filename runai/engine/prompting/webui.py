"""The dialect of AUTOMATIC1111's web UI.

`(x)` counts 1.1 times, `[x]` 1/1.1 times, `(x:1.3)` 1.3 times as much; these nest. BREAK begins
a new chunk. A backslash takes a bracket's meaning away, and is dropped. Schedules are read
first (`schedules`), emphasis in what they leave. As in the web UI (modules/prompt_parser.py,
parse_prompt_attention) a bracket that is never closed counts to the end, one that was never
opened is text, and round and square brackets may cross. Unlike there, BREAK is a break within
brackets too, and a comma may stand for the decimal point.

AND, which composes several predictions of the network, is refused: drawing it as text would
be something else than was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from runai.engine.prompting import schedules
from runai.engine.prompting.parts import (
    BREAK,
    NUMBER,
    Break,
    Composition,
    Fragment,
    Line,
    Part,
    Script,
    fragment,
    fused,
    number,
)
from runai.errors import InvalidField

_LEXEME = re.compile(rf"\\([()\[\]\\])|[()\[\]]|:\s*({NUMBER})\s*\)|[^\\()\[\]:]+|:|\\")
_BREAK = re.compile(r"\bBREAK\b")
_AND = re.compile(r"\bAND\b")
_PLAIN = {"(": 1.1, "[": 1 / 1.1}
_OPENS = {")": "(", "]": "["}


@dataclass(eq=False)
class _Open:
    """A bracket; what it multiplies by is known for sure when it closes."""

    kind: str
    factor: float


@dataclass(frozen=True)
class _Close:
    kind: str


Mark = str | _Open | _Close


def parse(text: str, steps: int, field: str) -> Script:
    """Raises InvalidField for AND, for absurd weights and for schedules of too much text."""
    if _AND.search(text):
        raise InvalidField(
            "Composing prompts with AND is not offered.",
            hint="Write `and` in small letters, or BREAK to begin a new chunk.",
            field=field,
        )
    said: dict[str, Composition] = {}  # equal texts are one composition
    script = []
    for first, now in schedules.texts(text, steps, field):
        if now not in said:
            said[now] = (Part((emphasis(now, field),)),)
        script.append((first, said[now]))
    return tuple(script)


def emphasis(text: str, field: str) -> Line:
    """The weighted fragments of a text without schedules."""
    return fused(_weighted(_marks(text), field))


def _marks(text: str) -> list[Mark]:
    """Text and brackets, each bracket with its factor and only closed where it was opened."""
    marks: list[Mark] = []
    open_: dict[str, list[_Open]] = {"(": [], "[": []}
    for lexeme in _LEXEME.finditer(text):
        said, escaped, weight = lexeme[0], lexeme[1], lexeme[2]
        if escaped is not None:
            marks.append(escaped)
        elif said in _PLAIN:
            bracket = _Open(said, _PLAIN[said])
            open_[said].append(bracket)
            marks.append(bracket)
        elif said[-1] in _OPENS and open_[_OPENS[said[-1]]]:
            bracket = open_[_OPENS[said[-1]]].pop()
            bracket.factor = bracket.factor if weight is None else number(weight)
            marks.append(_Close(bracket.kind))
        elif said != "\\":
            marks.append(said)
    return marks


def _weighted(marks: list[Mark], field: str) -> Iterator[Fragment | Break]:
    # of each kind of bracket the products of all that are open, the innermost last
    products: dict[str, list[float]] = {"(": [1.0], "[": [1.0]}
    for mark in marks:
        if isinstance(mark, _Open):
            products[mark.kind].append(products[mark.kind][-1] * mark.factor)
        elif isinstance(mark, _Close):
            products[mark.kind].pop()
        else:
            weight = products["("][-1] * products["["][-1]
            for i, piece in enumerate(_BREAK.split(mark)):
                if i:
                    yield BREAK
                if piece:
                    yield fragment(piece, weight, field)
