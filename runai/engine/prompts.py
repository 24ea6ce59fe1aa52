"""Prompts to conditioning: what the UNet's cross-attention reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from runai.engine.loading import LoadedModel


@dataclass(frozen=True)
class Conditioning:
    """Text embeddings of shape (1, tokens, width); `negative` is None without guidance."""

    positive: torch.Tensor
    negative: torch.Tensor | None
    notes: tuple[str, ...] = ()

    @property
    def guided(self) -> bool:
        return self.negative is not None


def encode(model: LoadedModel, prompt: str, negative: str, guidance_scale: float) -> Conditioning:
    """The prompts' embeddings, cut to the text encoder's length as diffusers does.

    Guidance of 1 or less needs no negative half (Ho & Salimans 2022, eq. 6 with w = 0).
    """
    notes = []
    positive, cut = _embed(model, prompt)
    if cut:
        notes.append(f"The prompt was cut: {cut} tokens are past the model's limit.")
    if guidance_scale <= 1:
        return Conditioning(positive, None, tuple(notes))
    unwanted, cut = _embed(model, negative)
    if cut:
        notes.append(f"The negative prompt was cut: {cut} tokens are past the model's limit.")
    return Conditioning(positive, unwanted, tuple(notes))


def _embed(model: LoadedModel, text: str) -> tuple[torch.Tensor, int]:
    length = model.tokenizer.model_max_length
    ids = model.tokenizer(
        text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    # the length without the cut; `verbose` off: the tokenizer would warn about just that
    whole = len(model.tokenizer(text, verbose=False).input_ids)
    embedding = model.text_encoder(ids.to(model.device))[0]
    return embedding.to(model.dtype), max(whole - length, 0)
