"""Prompts to conditioning: what the UNet's cross-attention reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from runai.engine.model import LoadedModel, TextEncoder


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
    """The text of each step: all of one token length. `negative` is None without guidance."""

    positive: tuple[Phase, ...]
    negative: tuple[Phase, ...] | None
    notes: tuple[str, ...] = ()

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


def encode(model: LoadedModel, prompt: str, negative: str, guidance_scale: float) -> Conditioning:
    """The prompts' embeddings, cut to the text encoder's length as diffusers does.

    Guidance of 1 or less needs no negative half (Ho & Salimans 2022, eq. 6 with w = 0).
    """
    notes = []
    positive, cut = _embed(model, prompt)
    if cut:
        notes.append(f"The prompt was cut: {cut} tokens are past the model's limit.")
    if guidance_scale <= 1:
        return Conditioning((Phase(0, positive),), None, tuple(notes))
    unwanted, cut = _embed(model, negative)
    if cut:
        notes.append(f"The negative prompt was cut: {cut} tokens are past the model's limit.")
    return Conditioning((Phase(0, positive),), (Phase(0, unwanted),), tuple(notes))


def _embed(model: LoadedModel, text: str) -> tuple[Text, int]:
    encoder: TextEncoder = model.texts[0]
    ids = encoder.tokenizer(
        text, padding="max_length", max_length=encoder.length, truncation=True, return_tensors="pt"
    ).input_ids
    # the length without the cut; `verbose` off: the tokenizer would warn about just that
    whole = len(encoder.tokenizer(text, verbose=False).input_ids)
    embedding = encoder.network(ids.to(model.device))[0]
    return Text(embedding.to(model.dtype)), max(whole - encoder.length, 0)
