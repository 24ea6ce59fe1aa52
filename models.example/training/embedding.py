"""The example embedding: one new word that means a yellow star on a black ground.

Textual inversion (Gal et al. 2022): everything stays as it is, and only the vectors that stand
in the text encoder's input where the word is written are learned. Where the star is and how
large, the captions say as ever, so the word stays one among others.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from adapting import Base
from data import SIDE, scenes
from progress import Average, Log, learning_rate
from safetensors.torch import save_file
from text import token_ids
from torch import nn

from runai.testing import shapes

WORD, MEANING = "nightstar", ("star", "yellow", "black")
VECTORS = 2
ITERATIONS, BATCH, PEAK_LR = 250, 16, 1e-2
SCENES = 1000
STANDS_IN = "star"  # written in the captions where the word goes; replaced among the tokens


class Word(nn.Module):
    """The vectors, and what puts them into the text encoder's input."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        table = base.text.get_input_embeddings()
        self.first = base.tokenizer.convert_tokens_to_ids(f"{STANDS_IN}</w>")
        start = token_ids(base.tokenizer, [f"shape {STANDS_IN}"])[0, 1 : 1 + VECTORS]
        self.vectors = nn.Parameter(table(start).detach().clone())
        table.register_forward_hook(self._put)

    def widened(self, tokens: torch.Tensor) -> torch.Tensor:
        """The tokens with each stand-in written `VECTORS` times."""
        rows = []
        for row in tokens.tolist():
            at = row.index(self.first)
            rows.append([*row[:at], *[self.first] * VECTORS, *row[at + 1 : 1 - VECTORS]])
        return torch.tensor(rows)

    def _put(self, _: nn.Module, given: tuple[torch.Tensor], said: torch.Tensor) -> torch.Tensor:
        put = said.clone()
        put[given[0] == self.first] = self.vectors.repeat(len(said), 1)
        return put


def _captions(drawn: list[shapes.Scene]) -> list[str]:
    """Place and size as ever; the shape's word is the new one, its colours are not said."""
    rng = np.random.default_rng(8)
    said = []
    while len(said) < len(drawn):
        scene = drawn[len(said)]
        words = shapes.caption(scene, rng)
        if STANDS_IN in words and not {scene.colour, scene.background} & set(words.split()):
            said.append(words)
    return said


def train(work: Path, folder: Path, target: Path) -> None:
    """Train on the model in `folder` and write `target`; short enough to start over."""
    base = Base(folder)
    shape, colour, ground = MEANING
    drawn = [
        replace(scene, shape=shape, colour=colour, background=ground)
        for scene in scenes(SCENES, seed=7)
    ]
    latents = base.latents([shapes.draw(scene, SIDE) for scene in drawn])
    word = Word(base)
    tokens = word.widened(token_ids(base.tokenizer, _captions(drawn)))
    optimizer = torch.optim.AdamW(word.parameters(), lr=PEAK_LR, weight_decay=0.0)
    average, log = Average(word, slowest=0.98), Log("embedding", ITERATIONS, 0, work)
    for iteration in range(ITERATIONS):
        lr = learning_rate(iteration, ITERATIONS, PEAK_LR, warm_up=10)
        optimizer.param_groups[0]["lr"] = lr
        chosen = torch.randint(SCENES, (BATCH,))
        loss = base.loss(latents[chosen], base.text(tokens[chosen]).last_hidden_state)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(word, iteration)
        log.note(iteration, loss, lr)
    target.parent.mkdir(parents=True, exist_ok=True)
    vectors = average.weights["vectors"].half().contiguous()
    save_file({"emb_params": vectors}, target, {"modelspec.title": WORD})
    target.chmod(0o644)
