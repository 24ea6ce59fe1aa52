"""Weighted text to chunks: rows of tokens, each as long as the text encoder reads at once.

Every chunk has its own start and end, and what fills it up. Text longer than one goes on in
the next, as in the web UI (modules/sd_hijack_clip.py): a chunk that is full breaks after its
last comma, if that is at most `COMMA_REACH` tokens back (the web UI's default), so that what
belongs together stays together; a break in the text begins a new chunk whatever is in it. A
textual inversion takes as many places as it has vectors, all in one chunk if they fit one.

Pure apart from the tokenizer it is given; what is read of the encoder is its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runai.engine.model import TextEncoder
from runai.engine.prompting import Break, Line
from runai.engine.prompting.words import Word, Words
from runai.errors import InvalidField

COMMA_REACH = 20
Count = Callable[[Word], int | None]
"""How many vectors a word has in this encoder; None: it has none, so it is text."""


@dataclass
class Allowance:
    """How many chunks a request may still have."""

    most: int
    spent: int = 0

    def spend(self, chunks: int) -> None:
        self.spent += chunks
        if self.spent > self.most:
            raise InvalidField(
                f"The prompts come to more than {self.most} chunks of text, all steps together.",
                hint="Shorten them, or let fewer steps change them.",
                field="prompt",
            )


@dataclass(frozen=True)
class Slot:
    """A token's place: its weight, and of which fragment it is.

    `vector`: instead of the token's own, the vector of this index of the word of this name.
    """

    token: int
    weight: float = 1.0
    fragment: int = -1
    vector: tuple[str, int] | None = None


@dataclass(frozen=True)
class Chunk:
    """As many slots as the encoder reads at once."""

    slots: tuple[Slot, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(slot.token for slot in self.slots)

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple(slot.weight for slot in self.slots)

    @property
    def vectors(self) -> tuple[tuple[int, str, int], ...]:
        """Place, word and index of every vector that stands for a token."""
        placed = ((place, slot.vector) for place, slot in enumerate(self.slots))
        return tuple((place, *vector) for place, vector in placed if vector)

    def places_of(self, fragment: int) -> frozenset[int]:
        return frozenset(i for i, slot in enumerate(self.slots) if slot.fragment == fragment)


def chunked(
    line: Line, encoder: TextEncoder, words: Words, count: Count, allowance: Allowance
) -> tuple[Chunk, ...]:
    """The chunks of a line, one at least. Raises InvalidField as soon as they are too many."""
    filler = _Filler(encoder, allowance)
    for index, piece in enumerate(line):
        if isinstance(piece, Break):
            filler.next()
            continue
        for text in words.split(piece.text):
            vectors = count(text) if isinstance(text, Word) else None
            if isinstance(text, Word) and vectors:
                slots = (Slot(0, piece.weight, index, (text.name, i)) for i in range(vectors))
                filler.word(slots, vectors)
            else:
                plain = text.written if isinstance(text, Word) else text
                filler.text(Slot(token, piece.weight, index) for token in filler.tokens(plain))
    return filler.finish()


class _Filler:
    def __init__(self, encoder: TextEncoder, allowance: Allowance) -> None:
        self._allowance = allowance
        self._tokenizer = encoder.tokenizer
        comma = self._tokenizer.convert_tokens_to_ids(",</w>")
        self._comma = None if comma == self._tokenizer.unk_token_id else comma
        self._room = encoder.length - 2  # between start and end
        self._slots: list[Slot] = []
        self._last_comma: int | None = None
        self._chunks: list[Chunk] = []

    def tokens(self, text: str) -> list[int]:
        # `verbose` off: the tokenizer would warn of text longer than the encoder reads at once
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    def text(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            if slot.token == self._comma:
                self._last_comma = len(self._slots)
            else:
                self._break_at_comma()
            self._add(slot)

    def word(self, slots: Iterable[Slot], count: int) -> None:
        self._break_at_comma()
        if self._slots and len(self._slots) + count > self._room:
            self.next()
        for slot in slots:
            self._add(slot)

    def next(self) -> None:
        """Close the chunk, full or not."""
        self._allowance.spend(1)  # now: a line that comes to too much is not filled to its end
        tokenizer = self._tokenizer
        fill = [Slot(tokenizer.pad_token_id)] * (self._room - len(self._slots))
        start, end = Slot(tokenizer.bos_token_id), Slot(tokenizer.eos_token_id)
        self._chunks.append(Chunk((start, *self._slots, end, *fill)))
        self._slots, self._last_comma = [], None

    def finish(self) -> tuple[Chunk, ...]:
        if self._slots or not self._chunks:
            self.next()
        return tuple(self._chunks)

    def _add(self, slot: Slot) -> None:
        if len(self._slots) == self._room:
            self.next()
        self._slots.append(slot)

    def _break_at_comma(self) -> None:
        """Where the chunk is full, take what follows its last comma to the next one."""
        full, comma = len(self._slots) == self._room, self._last_comma
        if not full or comma is None or self._room - comma > COMMA_REACH:
            return
        moved = self._slots[comma + 1 :]
        del self._slots[comma + 1 :]
        self.next()
        self._slots = moved
