"""The part of the web UI's syntax that depends on the step: `[a:b:0.5]` and `[a|b]`.

`[a:b:WHEN]` is a until WHEN and then b; `[b:WHEN]` adds b then, `[a::WHEN]` takes a away then.
WHEN with a decimal point is a fraction of the steps, without one a number of steps. `[a|b|c]`
takes turns, one step each. Both nest. What comes out is text in which emphasis is still to be
read, for every step at which it changes.

Theory of operation: one pass with a stack of open brackets. A bracket that closes is a switch,
turns, or a group (`(x)`, `(x:1.2)`, `[x]`: emphasis, left as it is). One that fits none of
these, is closed by the other kind or never, is text, and so is every bracket around it: that is
what the web UI's grammar (modules/prompt_parser.py) comes to. Nodes are kept nested and written
out with a stack, so neither depth nor length costs more than its characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from runai.engine.prompting.parts import NUMBER, number
from runai.errors import InvalidField

# what it takes to read a schedule is proportional to the characters of all its texts that
# differ, and to the pieces that are gone through at all its steps (0.1 s for each of these)
MAX_CHARACTERS = 100_000
MAX_PIECES = 400_000
_LEXEME = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+|\\", re.DOTALL)
_WHEN = re.compile(rf"\s*({NUMBER})\s*")
_OPENS = {")": "(", "]": "["}


@dataclass(frozen=True, eq=False)
class _Switch:
    before: Items
    after: Items
    when: str

    def first(self, steps: int) -> int:
        """The step, from 0, at which `after` takes over."""
        value = number(self.when)
        fraction = not self.when.lstrip("+-").isdigit()
        return int(max(0.0, min(value * steps if fraction else value, steps)))

    def at(self, step: int, steps: int) -> Items:
        return self.before if step < self.first(steps) else self.after


@dataclass(frozen=True, eq=False)
class _Turns:
    options: list[Items]

    def at(self, step: int, steps: int) -> Items:
        return self.options[step % len(self.options)]


Items = list["str | _Switch | _Turns | Items"]


@dataclass(eq=False)
class _Open:
    """A bracket that is open yet: its content, cut at the marks `:` and `|`."""

    kind: str
    cells: list[Items] = field(default_factory=lambda: [[]])
    marks: list[str] = field(default_factory=list)

    def raw(self) -> Items:
        """What it is as text."""
        items: Items = [self.kind, self.cells[0]]
        for mark, cell in zip(self.marks, self.cells[1:], strict=True):
            items += [mark, cell]
        return items

    def closed(self, closer: str) -> str | _Switch | _Turns | Items | None:
        """What it turns out to be, or None: text."""
        marks = "".join(self.marks)
        if not marks or (self.kind == "(" and marks == ":"):
            return [*self.raw(), closer]
        if self.kind == "[" and set(marks) == {"|"}:
            return _Turns(self.cells)
        if self.kind == "[" and marks in (":", "::"):
            return self._switch()
        return None

    def _switch(self) -> _Switch | None:
        last = self.cells[-1]
        when = _WHEN.fullmatch(last[0]) if len(last) == 1 and isinstance(last[0], str) else None
        if when is None:
            return None
        before = self.cells[0] if len(self.cells) == 3 else []
        return _Switch(before, self.cells[-2], when[1])


class _Reader:
    def __init__(self) -> None:
        self.root: Items = []
        self.stack: list[_Open] = []
        self.switches: list[_Switch] = []
        self.turns = False

    def read(self, text: str) -> None:
        for lexeme in _LEXEME.findall(text):
            if lexeme in ("(", "["):
                self.stack.append(_Open(lexeme))
            elif lexeme in (")", "]"):
                self._close(lexeme)
            elif lexeme in (":", "|") and self.stack:
                self.stack[-1].marks.append(lexeme)
                self.stack[-1].cells.append([])
            else:
                self._here().append(lexeme)
        self._flush()

    def _here(self) -> Items:
        return self.stack[-1].cells[-1] if self.stack else self.root

    def _close(self, closer: str) -> None:
        fits = bool(self.stack) and self.stack[-1].kind == _OPENS[closer]
        node = self.stack[-1].closed(closer) if fits else None
        if node is None:
            self._flush()
            self.root.append(closer)
            return
        self.stack.pop()
        self._here().append(node)
        if isinstance(node, _Switch):
            self.switches.append(node)
        self.turns = self.turns or isinstance(node, _Turns)

    def _flush(self) -> None:
        """All that is open turns out to be text."""
        for bracket in self.stack:
            self.root.append(bracket.raw())
        self.stack.clear()


def texts(text: str, steps: int, name: str) -> list[tuple[int, str]]:
    """The text from each step on at which it changes. `name`: the field, for errors."""
    reader = _Reader()
    reader.read(text)
    firsts = {switch.first(steps) for switch in reader.switches}
    changes = range(steps) if reader.turns else sorted({0, *firsts} - {steps})
    found: list[tuple[int, str]] = []
    known: dict[str, str] = {}  # equal texts are one
    pieces = characters = 0
    for step in changes:
        said = list(_pieces_at(reader.root, step, steps))
        now = "".join(piece for piece in said if piece is not None)
        pieces += len(said)
        characters += 0 if now in known else len(now)
        if pieces > MAX_PIECES or characters > MAX_CHARACTERS:
            raise _too_much(steps, name)
        now = known.setdefault(now, now)
        if not found or found[-1][1] is not now:
            found.append((step, now))
    return found


def _too_much(steps: int, name: str) -> InvalidField:
    return InvalidField(
        f"With {steps} steps this prompt is too much text to read.",
        hint="Shorten it, or let fewer steps change it.",
        field=name,
    )


def _pieces_at(root: Items, step: int, steps: int) -> Iterator[str | None]:
    """The pieces of the text at a step; None for every bracket gone through."""
    waiting = [iter(root)]
    while waiting:
        item = next(waiting[-1], None)
        if item is None:
            waiting.pop()
        elif isinstance(item, str):
            yield item
        else:
            waiting.append(iter(item if isinstance(item, list) else item.at(step, steps)))
            yield None
