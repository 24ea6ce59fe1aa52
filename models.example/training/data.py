"""The pictures and captions training sees, and the split it must not cross.

64 combinations of (shape, colour, background), chosen once by a fixed seed, are never drawn for
the denoiser: `HELD_OUT` is what `evaluate.py` asks for. The autoencoder learns no captions; it
sees shapes in any colours, several at once and on gradients, so that it can also code pictures
that were not made here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from runai.testing import shapes

SIDE = 128
_README_PROMPT = ("circle", "red", "blue")  # must be in training whatever the split


def _split() -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """All combinations as (seen, held out)."""
    everything = [c for c in shapes.combinations() if c != _README_PROMPT]
    order = np.random.default_rng(20).permutation(len(everything))
    held_out = sorted(everything[i] for i in order[:64])
    seen = [c for c in shapes.combinations() if c not in held_out]
    return seen, held_out


SEEN, HELD_OUT = _split()


def scenes(count: int, seed: int) -> list[shapes.Scene]:
    """Random scenes of seen combinations."""
    rng = np.random.default_rng(seed)
    return [shapes.random_scene(rng, SEEN) for _ in range(count)]


def as_tensor(images: list[Image.Image]) -> torch.Tensor:
    """(n, 3, height, width), -1 to 1."""
    stack = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1


def _any_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    return red, green, blue


def _busy_picture(rng: np.random.Generator) -> Image.Image:
    """Up to three shapes in any colours over a plain ground or a gradient."""
    corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    if rng.random() < 0.5:
        corners[:] = corners[0, 0]
    picture = Image.fromarray(corners).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    for _ in range(rng.integers(1, 4)):
        x, y, radius = (float(rng.uniform(*bounds)) for bounds in ((0, 1), (0, 1), (0.08, 0.4)))
        shape = list(shapes.SHAPES)[rng.integers(len(shapes.SHAPES))]
        picture = shapes.paint(shape, _any_colour(rng), picture, (x, y, radius), (SIDE, SIDE))
    return picture


def vae_pictures(count: int, seed: int) -> torch.Tensor:
    """Two thirds plain scenes, one third busy ones; uint8, (n, 3, side, side)."""
    rng = np.random.default_rng(seed)
    images = [
        _busy_picture(rng) if i % 3 == 0 else shapes.draw(shapes.random_scene(rng), SIDE)
        for i in range(count)
    ]
    stack = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()


def crops(pool: torch.Tensor, batch: int, side: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless random batches of the pool, cut to `side`, -1 to 1."""
    rng = np.random.default_rng(seed)
    while True:
        chosen = rng.integers(0, len(pool), batch)
        tops, lefts = rng.integers(0, pool.shape[2] - side + 1, (2, batch))
        cut = [
            pool[i, :, top : top + side, left : left + side]
            for i, top, left in zip(chosen, tops, lefts, strict=True)
        ]
        yield torch.stack(cut).float() / 127.5 - 1
