"""The dialect of compel (github.com/damian0815/compel, doc/syntax.md).

`word+`, `(some words)++` or `"some words"-`: every plus counts 1.1 times, every minus 0.9 times
as much; `(x)1.3` is a weight as it stands, and so is `(x).attend(1.3)`. These nest. A whole
prompt may be `("a", "b").and()`: one after the other, or `("a", "b").blend(0.7, 0.3)`: mixed.
A backslash takes a character's meaning away.

As in compel a prompt is a row of words, and a bracket means something at the beginning of one
only. Unlike there, a bracket with a lone `-` or `=` in it is a bracket still, text after
`.and()` is refused instead of dropped, and so is `.swap()`, which needs the attention maps.
Brackets and quotes that do not pair are text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from runai.engine.prompting.parts import Fragment, Line, Part, Script, fragment, fused
from runai.errors import InvalidField

_PLUS, _MINUS = 1.1, 0.9
_NUMBER = r"\d+(?:\.\d*)?|\.\d+"
_OPERATOR = re.compile(rf"(\++|-+|{_NUMBER})|\.attend\(\s*(\++|-+|{_NUMBER})\s*\)")
# text that holds no syntax, and what counts it up or down
_WORD = re.compile(
    r"((?:\\[()\",.+\-=]|[+-](?![\s()\",.+\-=]|$)|[^\s()\",.+\-=])++)(\++|-+)", re.DOTALL
)
_OUTSIDE = re.compile(r"\S+")
_INSIDE = re.compile(r"(?:\\[()\"]|[^\s()\"])+|\S")
_MARK = re.compile(r"\\.|[()\"]", re.DOTALL)
_ESCAPE = re.compile(r"\\([()\",.+\-=])")
_WHOLE = re.compile(r"\)\s*\.(and|add|blend)\(([^()]*)\)\s*$")
_MISPLACED = re.compile(r"[)\"]\s*\.(and|add|blend)\(")
_SWAP = re.compile(r"\.swap\(")
_COMMA = re.compile(r",(?=\S)")


def parse(text: str, steps: int, field: str) -> Script:
    """Raises InvalidField for .swap, for a misplaced or miscounted .and or .blend."""
    if _SWAP.search(text):
        raise InvalidField(
            "compel's .swap() is not offered.",
            hint="Write the prompt without it, or [a:b:0.5] in the web UI's dialect.",
            field=field,
        )
    text = _COMMA.sub(", ", text)  # as compel does: a comma ends a word
    return ((0, _composition(text, field)),)


def _composition(text: str, field: str) -> tuple[Part, ...]:
    pairs = _pairs(text)
    start = len(text) - len(text.lstrip())
    whole = _WHOLE.search(text)
    if whole and pairs.get(start) == whole.start() and text[start] == "(":
        lines = tuple(_line(item, field) for item in _items(text, start, whole.start(), pairs))
        weights, normalize = _weights(whole, len(lines), field)
        if whole[1] == "blend":
            return (Part(lines, _shares(weights, normalize, field)),)
        return tuple(
            Part((line,), weight=weight) for line, weight in zip(lines, weights, strict=True)
        )
    misplaced = _MISPLACED.search(_ESCAPE.sub("  ", text))
    if misplaced:
        raise InvalidField(
            f"A .{misplaced[1]}() must be all of the prompt.",
            hint=f'Write the prompt as ("one text", "another").{misplaced[1]}().',
            field=field,
        )
    return (Part((_line(text, field),)),)


def _pairs(text: str) -> dict[int, int]:
    """Where each bracket or quote that is closed opens -> where it closes."""
    marks = [m for m in _MARK.finditer(text) if m[0][0] != "\\"]
    quotes = [m.start() for m in marks if m[0] == '"']
    stray = quotes[-1] if len(quotes) % 2 else None
    found: dict[int, int] = {}
    stack: list[int] = []
    quote: int | None = None  # how deep the stack was when the open quote began
    for mark in marks:
        at = mark.start()
        if mark[0] == "(":
            stack.append(at)
        elif mark[0] == ")":
            if len(stack) > (quote or 0):
                found[stack.pop()] = at
        elif at != stray and quote is None:
            stack.append(at)
            quote = len(stack)
        elif at != stray and quote is not None:
            found[stack[quote - 1]] = at
            del stack[quote - 1 :]
            quote = None
    return found


def _items(text: str, start: int, end: int, pairs: dict[int, int]) -> list[str]:
    """What stands between commas in the bracket from `start` to `end`."""
    cuts, at = [start], start + 1
    while at < end:
        if text[at] == ",":
            cuts.append(at)
        at = pairs.get(at, at) + 1
    return [text[a + 1 : b] for a, b in zip(cuts, [*cuts[1:], end], strict=True)]


def _weights(whole: re.Match[str], count: int, field: str) -> tuple[list[float], bool]:
    """The numbers of `.and(…)` or `.blend(…)`, all 1 if none is given; whether to normalize."""
    options = [option.strip() for option in whole[2].split(",") if option.strip()]
    normalize = options[-1:] != ["no_normalize"]
    options = options if normalize else options[:-1]
    if not all(re.fullmatch(rf"-?(?:{_NUMBER})", option) for option in options):
        raise InvalidField(f"The weights of .{whole[1]}() must be numbers.", field=field)
    if options and len(options) != count:
        raise InvalidField(
            f".{whole[1]}() has {count} texts and {len(options)} weights.", field=field
        )
    # `fragment` knows what is too much for a weight
    return [fragment(o, float(o), field).weight for o in options] or [1.0] * count, normalize


def _shares(weights: list[float], normalize: bool, field: str) -> tuple[float, ...]:
    total = sum(weights)
    if not normalize:
        return tuple(weights)
    if not total:
        raise InvalidField(
            "The weights of .blend() add up to nothing.",
            hint="Give weights that add up to something, or add no_normalize.",
            field=field,
        )
    return tuple(weight / total for weight in weights)


@dataclass(frozen=True)
class _Open:
    """A bracket or quote: where it closes, where its operator ends, its text's weight."""

    close: int
    end: int
    weight: float


def _line(text: str, field: str) -> Line:
    """The weighted fragments of a text without `.and` and `.blend`."""
    pairs, pieces = _pairs(text), []
    stack = [_Open(len(text), len(text), 1.0)]
    at = 0
    while at < len(text):
        top = stack[-1]
        if at == top.close:
            at = stack.pop().end
        elif text[at].isspace():
            at += 1
        elif at in pairs:
            stack.append(_opened(text, pairs[at], top.weight))
            at += 1
        else:
            said, at = _said(text, at, top.weight, nested=len(stack) > 1)
            pieces.append(fragment(_ESCAPE.sub(r"\1", said.text), said.weight, field))
    return fused(pieces, " ")


def _opened(text: str, close: int, weight: float) -> _Open:
    operator = _OPERATOR.match(text, close + 1)
    if operator is None:
        return _Open(close, close + 1, weight)
    return _Open(close, operator.end(), weight * _factor(operator[1] or operator[2]))


def _said(text: str, at: int, weight: float, *, nested: bool) -> tuple[Fragment, int]:
    """The word at a place, and where it ends."""
    word = _WORD.match(text, at)
    if word:
        return Fragment(word[1], weight * _factor(word[2])), word.end()
    plain = (_INSIDE if nested else _OUTSIDE).match(text, at)
    assert plain is not None  # noqa: S101 (for mypy: here is no space)
    return Fragment(plain[0], weight), plain.end()


def _factor(operator: str) -> float:
    if operator[0] == "+":
        return _PLUS ** min(len(operator), 1000)
    if operator[0] == "-":
        return _MINUS ** min(len(operator), 1000)
    return float(operator)
