"""Words to tokens and tokens to conditioning: a small vocabulary and a small CLIP text encoder.

The vocabulary has the layout of CLIP's: all byte letters, the same as word ends, what merging
them gives, and the two marks. So every text can be tokenised; the words captions use are one
token each. The encoder is trained first, on captions alone, to tell what they say (as CLIP's is
trained before any denoiser sees it): left to be learned along with the UNet, words had no effect
after 800 iterations.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from progress import Log, learning_rate, save
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from runai.testing import shapes

TOKENS = 77
WIDTH = 96
END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
ITERATIONS, BATCH, PEAK_LR = 300, 128, 2e-3
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


def _said(scene: shapes.Scene, caption: str) -> list[int]:
    """What the caption says of shape, colour, ground, place and size, as numbers; 0: nothing."""
    words = set(caption.replace(",", "").split())
    places = [shapes.POSITION_WORDS[place] for place in shapes.POSITIONS]
    sizes = [("",), shapes.SIZE_WORDS["small"], shapes.SIZE_WORDS["large"]]
    return [
        1 + list(shapes.SHAPES).index(scene.shape) if scene.shape in words else 0,
        1 + list(shapes.COLOURS).index(scene.colour) if scene.colour in words else 0,
        1 + list(shapes.COLOURS).index(scene.background) if scene.background in words else 0,
        next((i + 1 for i, ways in enumerate(places) if any(w in caption for w in ways)), 0),
        next((i for i, ways in enumerate(sizes) if words & set(ways)), 0),
    ]


class _Reader(nn.Module):
    """One linear layer per question over what the encoder has at the caption's end."""

    CHOICES = (len(shapes.SHAPES), len(shapes.COLOURS), len(shapes.COLOURS), 5, 2)

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 1 + count) for count in self.CHOICES)

    def loss(self, tokens: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """Cross-entropy at the end mark and at three of the padding marks behind it."""
        hidden = self.encoder(tokens).last_hidden_state.float()
        ends = (tokens == tokens.max()).int().argmax(dim=1, keepdim=True)
        behind = (torch.rand(len(tokens), 3) * (TOKENS - ends)).long() + ends
        places = torch.cat([ends, behind], dim=1)
        seen = hidden.gather(1, places.unsqueeze(-1).expand(-1, -1, WIDTH))
        answers = [head(seen).transpose(1, 2) for head in self.heads]
        wanted = said.unsqueeze(-1).expand(-1, -1, places.shape[1])
        losses = [F.cross_entropy(a, wanted[:, i]) for i, a in enumerate(answers)]
        return torch.stack(losses).sum()


def train(work: Path, drawn: list[shapes.Scene], iterations: int = ITERATIONS) -> None:
    """Train the encoder on captions of these scenes; short enough to start over."""
    tokenizer = write_tokenizer(work / "tokenizer")
    rng = np.random.default_rng(4)
    captions = [shapes.caption(scene, rng) for scene in drawn]
    said = torch.tensor([_said(*pair) for pair in zip(drawn, captions, strict=True)])
    tokens = token_ids(tokenizer, captions)
    blank = torch.rand(len(drawn)) < 0.05
    tokens[blank], said[blank] = token_ids(tokenizer, [""]), 0
    reader = _Reader(new_encoder(tokenizer))
    optimizer = torch.optim.AdamW(reader.parameters(), lr=PEAK_LR, weight_decay=0.01)
    log = Log("text", iterations, 0, work)
    for iteration in range(iterations):
        lr = learning_rate(iteration, iterations, PEAK_LR, warm_up=50)
        optimizer.param_groups[0]["lr"] = lr
        chosen = torch.randint(len(tokens), (BATCH,))
        loss = reader.loss(tokens[chosen], said[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        log.note(iteration, loss, lr)
    save(work / "text.pt", {"encoder": reader.encoder.state_dict()})
