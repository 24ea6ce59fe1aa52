"""Words to tokens and tokens to conditioning: a small vocabulary and a small CLIP text encoder.

The vocabulary has the layout of CLIP's: all byte letters, the same as word ends, what merging
them gives, and the two marks. So every text can be tokenised; the words captions use are one
token each.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from runai.testing import shapes

TOKENS = 77
WIDTH = 96
END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
_WORDS = (
    "a an the of on in at to near over with and background picture drawing image photo shape "
    "small little tiny medium large big left right top bottom center centre middle"
)


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges until every word is one token; the commonest pair first, then by name."""
    pieces = [[*word[:-1], word[-1] + END_OF_WORD] for word in words]
    merges: list[tuple[str, str]] = []
    while any(len(piece) > 1 for piece in pieces):
        pairs = Counter(pair for piece in pieces for pair in pairwise(piece))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_merged(piece, best) for piece in pieces]
    return merges


def _merged(piece: list[str], pair: tuple[str, str]) -> list[str]:
    done: list[str] = []
    for symbol in piece:
        if done and (done[-1], symbol) == pair:
            done[-1] += symbol
        else:
            done.append(symbol)
    return done


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """vocab.json, merges.txt and what transformers saves besides."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = _merges(sorted({*_WORDS.split(), *shapes.COLOURS, *shapes.SHAPES}))
    letters = list(bytes_to_unicode().values())
    names = [*letters, *(letter + END_OF_WORD for letter in letters), *map("".join, merges)]
    vocabulary = {name: index for index, name in enumerate([*names, START, END])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return tokenizer


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """(n, 77), padded as diffusers' pipelines pad."""
    return tokenizer(
        captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


def new_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A fresh text encoder for that vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
