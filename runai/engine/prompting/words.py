"""Finding the names of textual inversions in text: whole words, in capitals or not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_RUN = re.compile(r"\w+")


@dataclass(frozen=True)
class Word:
    """A known name, in small letters, and as it was written."""

    name: str
    written: str


class Words:
    """Known names, found in one pass over a text whatever their number.

    A name may hold anything (`bad-hands-5`, `<cat-toy>`). It is looked up by its first run of
    letters and digits; of several that fit at a place the longest is taken. A name without any
    letter or digit is never found.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._by_run: dict[str, list[tuple[int, str]]] = {}
        for name in sorted(names, key=len, reverse=True):
            run = _RUN.search(name)
            if run:
                self._by_run.setdefault(run[0], []).append((run.start(), name))

    def split(self, text: str) -> Iterator[str | Word]:
        """The text, cut where known words stand in it."""
        if not self._by_run:
            yield text
            return
        done = 0
        # some capitals have no small letter of one character: they stay, so that places agree
        small = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
        for run in _RUN.finditer(small):
            place = self._at(small, run, done)
            if place is None:
                continue
            start, end = place
            if text[done:start]:
                yield text[done:start]
            yield Word(small[start:end], text[start:end])
            done = end
        if text[done:]:
            yield text[done:]

    def _at(self, text: str, run: re.Match[str], done: int) -> tuple[int, int] | None:
        for offset, name in self._by_run.get(run[0], ()):
            start = run.start() - offset
            end = start + len(name)
            if start >= done and text.startswith(name, start) and _ends_word(text, end):
                return start, end
        return None


def _ends_word(text: str, end: int) -> bool:
    """Whether no letter or digit goes on after what ends there in one."""
    return not (_RUN.match(text, end) and _RUN.match(text, end - 1))
