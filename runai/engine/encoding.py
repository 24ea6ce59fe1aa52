"""A request's text encoders, and what they make of a composition of weighted text.

Every chunk is encoded alone, never in a batch: so the same text gives the same bits whatever
else is encoded with it, and the bits of diffusers' pipelines where it is one chunk.

Weights are applied to what the encoder says, in fp32, as the dialect's home does it:

- `webui` (modules/sd_emphasis.py, "Original"): each token's state times its weight, then the
  chunk scaled so that its mean is what it was.
- `compel` (EmbeddingsProvider, downweight mode MASK): each state moved along the line from that
  of the empty text, weight 1 being where it is. Of every fragment that counts less than 1, what
  the encoder says with that fragment hidden from it is mixed in, tan((1 - weight)·π/2) of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Protocol

import torch

from runai.engine.chunks import Allowance, Chunk, chunked
from runai.engine.model import LoadedModel, TextEncoder
from runai.engine.prompting import Composition, Fragment, Line, Part
from runai.engine.prompting.words import Word, Words
from runai.engine.text_cache import Said, TextCache
from runai.errors import InvalidField
from runai.schema.requests import PromptDialect

NOTHING: frozenset[int] = frozenset()
SMALLEST = 1e-5  # compel's: the tangent of a weight of 0 would be infinite


class Inversions(Protocol):
    """The textual inversions there are. See `embeddings.Embeddings`."""

    def names(self) -> frozenset[str]:
        """In small letters."""

    def vectors(self, model: LoadedModel, word: str) -> Sequence[torch.Tensor] | None:
        """For each of the model's text encoders, vectors × width; None: not for this model."""

    def note(self, model: LoadedModel, word: str) -> str | None:
        """Why a word means nothing to this model; None if it does."""


@dataclass(frozen=True, eq=False)
class Reader:
    """One text encoder and how a request has it read.

    `skip`: last layers left out. `loras`: what is active, as part of what identifies a text.
    `vectors`: of the textual inversions this encoder knows, words × width each. `chunks`: of the
    lines that were counted.
    """

    encoder: TextEncoder
    device: torch.device
    cache: TextCache
    allowance: Allowance
    words: Words
    vectors: dict[str, torch.Tensor]
    skip: int = 0
    loras: Hashable = ()
    chunks: dict[Line, tuple[Chunk, ...]] = field(default_factory=dict)

    def count(self, composition: Composition, dialect: PromptDialect) -> None:
        """Spend what encoding a composition will take. Raises InvalidField."""
        for line in (line for part in composition for line in part.lines):
            chunks = self.chunks[line] = self._chunked(line, self.allowance)
            hidden = _downweighted(line) if dialect == "compel" else ()
            self.allowance.spend(sum(bool(c.places_of(i)) for c in chunks for i in hidden))

    def _chunked(self, line: Line, allowance: Allowance) -> tuple[Chunk, ...]:
        return chunked(line, self.encoder, self.words, self._vectors_of, allowance)

    def _vectors_of(self, word: Word) -> int | None:
        vectors = self.vectors.get(word.name)
        return None if vectors is None else len(vectors)

    def empty(self) -> Said:
        """What it says of no text."""
        return self.said(self._chunked((), Allowance(1))[0])

    def said(self, chunk: Chunk, hidden: frozenset[int] = NOTHING) -> Said:
        """What it says of a chunk, with the tokens at the places `hidden` masked."""
        key = (chunk.tokens, self._digest(chunk), hidden, self.skip, self.loras)
        return self.cache.get(self.encoder.network, key, lambda: self._ask(chunk, hidden))

    def _digest(self, chunk: Chunk) -> Hashable:
        """What tells vectors apart: a file may have been replaced by another of its name."""
        if not chunk.vectors:
            return ()
        digest = hashlib.sha256()
        for _, word, index in chunk.vectors:
            digest.update(self.vectors[word][index].float().cpu().numpy().tobytes())
        return tuple(place for place, _, _ in chunk.vectors), digest.digest()

    def _ask(self, chunk: Chunk, hidden: frozenset[int]) -> Said:
        encoder, network = self.encoder, self.encoder.network
        mask = None
        if hidden:
            shown = [int(place not in hidden) for place in range(len(chunk.slots))]
            mask = torch.tensor([shown], device=self.device)
        with _placed(network, chunk, self.vectors):
            said = network(
                torch.tensor([chunk.tokens], device=self.device),
                attention_mask=mask,
                output_hidden_states=bool(self.skip or encoder.layer != -1),
            )
        pooled = said.text_embeds if encoder.pooled else None
        return Said(self._states(said), pooled)

    def _states(self, said: Any) -> torch.Tensor:
        """Of the layer that is read, as diffusers' pipelines do (`clip_skip`)."""
        states: torch.Tensor
        if self.encoder.layer != -1:
            states = said.hidden_states[self.encoder.layer - self.skip]
        elif self.skip:
            network = getattr(self.encoder.network, "text_model", self.encoder.network)
            states = network.final_layer_norm(said.hidden_states[-1 - self.skip])
        else:
            states = said.last_hidden_state
        return states


def checked_skip(model: LoadedModel, skip: int) -> int:
    """A `clip_skip`; InvalidField where it would leave out every layer of an encoder."""
    for text in model.texts:
        most = text.network.config.num_hidden_layers + text.layer
        if skip > most:
            raise InvalidField(
                f"{model.name}'s text encoder has {most} layers that can be left out.",
                hint=f"Use a clip_skip of at most {most}.",
                field="clip_skip",
            )
    return skip


@contextmanager
def _placed(network: Any, chunk: Chunk, vectors: dict[str, torch.Tensor]) -> Iterator[None]:
    """Put textual inversions in the place of token embeddings, for one call."""
    if not chunk.vectors:
        yield
        return

    def place(_: Any, __: Any, embedded: torch.Tensor) -> torch.Tensor:
        embedded = embedded.clone()
        for at, word, index in chunk.vectors:
            embedded[:, at] = vectors[word][index].to(embedded.device, embedded.dtype)
        return embedded

    hook = network.get_input_embeddings().register_forward_hook(place)
    try:
        yield
    finally:
        hook.remove()


# --- what a composition comes to --------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """The chunks' states, 1 × tokens × width each, and the pooled embedding, if it has one."""

    states: tuple[torch.Tensor, ...]
    pooled: torch.Tensor | None


def encoded(reader: Reader, composition: Composition, dialect: PromptDialect) -> Encoded:
    """Of one encoder. The pooled embedding is that of the first part's first chunks."""
    parts = [_part(reader, part, dialect) for part in composition]
    return Encoded(tuple(state for part in parts for state in part.states), parts[0].pooled)


def _part(reader: Reader, part: Part, dialect: PromptDialect) -> Encoded:
    lines = [_line(reader, line, dialect) for line in part.lines]
    if part.shares == (1.0,) and part.weight == 1:
        return lines[0]
    empty = reader.empty().states.float()
    rows = zip_longest(*(line.states for line in lines), fillvalue=empty)
    mixed = [_mix(row, part.shares) for row in rows]
    states = tuple(_moved(empty, state, part.weight) for state in mixed)
    pooled = [line.pooled for line in lines if line.pooled is not None]
    return Encoded(states, _mix(pooled, part.shares) if pooled else None)


def _mix(tensors: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    weighted = [share * tensor.float() for tensor, share in zip(tensors, shares, strict=True)]
    return torch.stack(weighted).sum(dim=0)


def _moved(empty: torch.Tensor, state: torch.Tensor, weight: float) -> torch.Tensor:
    return state if weight == 1 else empty + (state - empty) * weight


def _line(reader: Reader, line: Line, dialect: PromptDialect) -> Encoded:
    chunks = reader.chunks[line]
    said = [reader.said(chunk) for chunk in chunks]
    states = tuple(s.states for s in said)
    if dialect == "compel" and _is_weighted(chunks):
        states = _as_compel(reader, line, chunks)
    elif _is_weighted(chunks):
        states = tuple(map(_as_web_ui, chunks, states))
    return Encoded(states, said[0].pooled)


def _is_weighted(chunks: Sequence[Chunk]) -> bool:
    return any(weight != 1 for chunk in chunks for weight in chunk.weights)


def _column(chunk: Chunk, like: torch.Tensor) -> torch.Tensor:
    """The weights as tokens × 1."""
    return torch.tensor(chunk.weights, device=like.device, dtype=torch.float32)[:, None]


def _as_web_ui(chunk: Chunk, states: torch.Tensor) -> torch.Tensor:
    plain = states.float()
    weighted = plain * _column(chunk, plain)
    return weighted * (plain.mean() / weighted.mean())


def _as_compel(reader: Reader, line: Line, chunks: Sequence[Chunk]) -> tuple[torch.Tensor, ...]:
    less = _downweighted(line)
    shares = {i: math.tan((1 - max(w, SMALLEST)) * math.pi / 2) for i, w in less.items()}
    total = 1 + sum(shares.values())
    mixed = []
    for chunk in chunks:
        base = _stretched(reader, chunk, NOTHING)
        here = {i: places for i in less if (places := chunk.places_of(i))}
        whole = base * (total - sum(shares[i] for i in here))
        hidden = (shares[i] * _stretched(reader, chunk, p) for i, p in here.items())
        mixed.append(sum(hidden, whole) / total)
    return tuple(mixed)


def _downweighted(line: Line) -> dict[int, float]:
    """The fragments that count less than 1, by index, with their weights."""
    return {i: p.weight for i, p in enumerate(line) if isinstance(p, Fragment) and p.weight < 1}


def _stretched(reader: Reader, chunk: Chunk, hidden: frozenset[int]) -> torch.Tensor:
    """The states, each moved from the empty text's by its weight."""
    empty, states = reader.empty().states.float(), reader.said(chunk, hidden).states.float()
    weights = _column(chunk, states)
    return torch.where(weights == 1, states, empty + (states - empty) * weights)
