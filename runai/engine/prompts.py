"""Prompts to conditioning: what the UNet's cross-attention reads at each step.

Both prompts are parsed (`prompting`), cut into chunks of tokens (`chunks`), encoded chunk by
chunk and weighted (`encoding`), with what encoders said before kept (`text_cache`).

Rules. One chunk of plain text is bit-identical to diffusers' `encode_prompt`. All texts of a
request have one length: shorter ones are filled up with encoded empty chunks. Steps count from
0 among those that are drawn, so with a strength below 1, `[a:b:0.5]` changes half way through
what is drawn. `clip_skip` leaves the negative prompt alone, as in diffusers; in the web UI's
dialect it is for both, as there. SDXL's negative prompt, where there is none, is zeros, as in
diffusers and the web UI; its refiner's is the encoded empty text, as in diffusers.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch

from runai.engine import prompting
from runai.engine.archs import Defaults
from runai.engine.chunks import Allowance
from runai.engine.encoding import Encoded, Inversions, Reader, checked_skip, encoded
from runai.engine.model import LoadedModel
from runai.engine.prompting import Script
from runai.engine.prompting.words import Word, Words
from runai.engine.samplers import steps_drawn
from runai.engine.text_cache import TextCache
from runai.schema.requests import GenerationRequest, PromptDialect

# Of one request: what all its texts are for all encoders, one call each. A call of SDXL's larger
# encoder takes a processor 0.1 s; two prompts of 1,000 words for two encoders are 72.
MAX_CHUNKS = 128


@dataclass(frozen=True)
class Text:
    """What the UNet reads of a prompt at one step: 1 × tokens × width, and 1 × width or None."""

    embedding: torch.Tensor
    pooled: torch.Tensor | None = None


@dataclass(frozen=True)
class Phase:
    """A text from step `first` on (steps as the user counts them, from 0)."""

    first: int
    text: Text


@dataclass(frozen=True)
class Conditioning:
    """The text of each step: all of one token length. `negative` is None without guidance.

    `dialect`: how the prompts were read.
    """

    positive: tuple[Phase, ...]
    negative: tuple[Phase, ...] | None
    notes: tuple[str, ...] = ()
    dialect: PromptDialect = "plain"

    @property
    def guided(self) -> bool:
        return self.negative is not None

    @property
    def tokens(self) -> int:
        return int(self.positive[0].text.embedding.shape[1])

    def at(self, step: int) -> tuple[Text | None, Text]:
        """The negative text, if any, and the positive one."""
        negative = None if self.negative is None else _in_force(self.negative, step)
        return negative, _in_force(self.positive, step)


def _in_force(phases: tuple[Phase, ...], step: int) -> Text:
    return next(phase.text for phase in reversed(phases) if phase.first <= step)


class Prompts:
    """Encodes prompts and keeps what the encoders said, at most `max_bytes` of it.

    For one thread. `hits`, `misses`: chunks of text that were known, and that were encoded.
    """

    def __init__(self, max_bytes: int) -> None:
        self.cache = TextCache(max_bytes)

    @property
    def hits(self) -> int:
        return self.cache.hits

    @property
    def misses(self) -> int:
        return self.cache.misses

    @torch.inference_mode()
    def encode(
        self,
        model: LoadedModel,
        request: GenerationRequest,
        choices: Defaults,
        *,
        loras: Hashable = (),
        embeddings: Inversions | None = None,
    ) -> Conditioning:
        """What the model reads of a request's prompts.

        `loras`: the set that is active in the encoders now. Guidance of 1 or less has no
        negative half (Ho & Salimans 2022, eq. 6 with w = 0). Raises InvalidField for a prompt
        that cannot be done, and for a `clip_skip` that leaves no layer.
        """
        return _Job(self.cache, model, request, choices, loras, embeddings).conditioning()


@dataclass
class _Half:
    """The positive or the negative prompt: its script, and what the encoders make of it.

    By the identity of a composition, which may be long, and in force many times.
    """

    script: Script
    readers: list[Reader]
    encoded: dict[int, list[Encoded]] = field(default_factory=dict)

    def count(self, dialect: PromptDialect) -> None:
        for composition in {id(c): c for _, c in self.script}.values():
            for reader in self.readers:
                reader.count(composition, dialect)

    def encode(self, dialect: PromptDialect) -> None:
        for _, c in self.script:
            if id(c) not in self.encoded:
                self.encoded[id(c)] = [encoded(reader, c, dialect) for reader in self.readers]

    @property
    def chunks(self) -> int:
        return max(len(e.states) for of_one in self.encoded.values() for e in of_one)

    def phases(self, chunks: int, dtype: torch.dtype) -> tuple[Phase, ...]:
        """Its texts, filled up to so many chunks."""
        texts = {c: self._text(of_one, chunks, dtype) for c, of_one in self.encoded.items()}
        return tuple(Phase(first, texts[id(composition)]) for first, composition in self.script)

    def _text(self, encoded: list[Encoded], chunks: int, dtype: torch.dtype) -> Text:
        whole = []
        for of_one, reader in zip(encoded, self.readers, strict=True):
            missing = range(len(of_one.states), chunks)
            filling = [reader.empty().states for _ in missing]
            whole.append(torch.cat([*of_one.states, *filling], dim=1))
        pooled = next((e.pooled.to(dtype) for e in encoded if e.pooled is not None), None)
        return Text(torch.cat(whole, dim=-1).to(dtype), pooled)


class _Job:
    """One request's prompts on their way."""

    def __init__(
        self,
        cache: TextCache,
        model: LoadedModel,
        request: GenerationRequest,
        choices: Defaults,
        loras: Hashable,
        embeddings: Inversions | None,
    ) -> None:
        self.cache, self.model, self.loras = cache, model, loras
        # a UNet that reads the guidance scale for itself needs no negative text either
        self.guided = choices.guidance_scale > 1 and model.guidance_width is None
        self.steps = steps_drawn(request, model.arch, choices)
        self.skip = checked_skip(model, request.clip_skip)
        self.notes: list[str] = []
        read = prompting.read(request)
        self.prompt, self.negative, self.dialect = read.prompt, read.negative, read.dialect
        if read.idle:
            self.notes.append("LoRAs in the negative prompt do nothing; name them in the prompt.")
        self.words = Words(embeddings.names() if embeddings else ())
        self.vectors = self._vectors(embeddings) if embeddings else {}
        self.allowance = Allowance(MAX_CHUNKS)

    def _vectors(self, embeddings: Inversions) -> dict[str, Sequence[torch.Tensor]]:
        """Of the known words in both prompts; a note for those that do not fit the model."""
        texts = (self.prompt, self.negative) if self.guided else (self.prompt,)
        pieces = [piece for text in texts for piece in self.words.split(text)]
        found = {}
        for name in sorted({piece.name for piece in pieces if isinstance(piece, Word)}):
            vectors = embeddings.vectors(self.model, name)
            note = embeddings.note(self.model, name)
            if vectors is not None:
                found[name] = vectors
            elif note is not None:
                self.notes.append(note)
        return found

    def conditioning(self) -> Conditioning:
        dtype = self.model.dtype
        positive = self._half(self.prompt, "prompt", self.skip)
        negative = None
        if self.guided and not self._negative_is_zeros():
            # diffusers' pipelines skip layers for the positive prompt only
            skip = self.skip if self.dialect == "webui" else 0
            negative = self._half(self.negative, "negative_prompt", skip)
        halves = [half for half in (positive, negative) if half]
        for half in halves:  # all is counted before any is encoded
            half.encode(self.dialect)
        chunks = max(half.chunks for half in halves)
        Allowance(MAX_CHUNKS).spend(chunks * sum(len(half.encoded) for half in halves))
        phases = positive.phases(chunks, dtype)
        unwanted = negative.phases(chunks, dtype) if negative else None
        if self.guided and not negative:
            unwanted = (Phase(0, _zeros(phases[0].text)),)
        return Conditioning(phases, unwanted, tuple(self.notes), self.dialect)

    def _negative_is_zeros(self) -> bool:
        """As published SDXL models ask for (`force_zeros_for_empty_prompt`); refiners do not."""
        return self.model.arch.added == "sizes" and not self.negative.strip()

    def _half(self, text: str, field: str, skip: int) -> _Half:
        script = prompting.parse(text, self.dialect, self.steps, field)
        readers = [self._reader(index, skip) for index in range(len(self.model.texts))]
        half = _Half(script, readers)
        half.count(self.dialect)
        return half

    def _reader(self, index: int, skip: int) -> Reader:
        return Reader(
            encoder=self.model.texts[index],
            device=self.model.device,
            cache=self.cache,
            allowance=self.allowance,
            words=self.words,
            vectors={word: vectors[index] for word, vectors in self.vectors.items()},
            skip=skip,
            loras=self.loras,
        )


def _zeros(like: Text) -> Text:
    pooled = None if like.pooled is None else torch.zeros_like(like.pooled)
    return Text(torch.zeros_like(like.embedding), pooled)
