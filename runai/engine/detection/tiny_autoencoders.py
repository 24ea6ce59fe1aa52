"""Tiny autoencoders (TAESD): which tensors are one, of what sizes, and for which latents.

PURE. Its author publishes a decoder and an encoder in a file each, whose layers have numbers
only; diffusers keeps both in one, under `decoder.layers.` and `encoder.layers.`, without a first
layer that has no weights. Nothing in the files tells for whose latents they were made, SDXL's or
those of Stable Diffusion 1 and 2: only their published names do.

    taesd, taesd_decoder, taesd_13_decoder, …               Stable Diffusion 1 and 2
    taesdxl, taesdxl_decoder, …                             SDXL

(https://github.com/madebyollin/taesd, taesd.py)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runai.engine.detection.finding import Finding, broken, foreign

Shapes = Mapping[str, Sequence[int]]
# what a decoder's layers are called before their numbers, and the number of the first
FORMS = (("decoder.layers.", 0), ("", 1), ("taesd_decoder.", 1))
_CALLED = re.compile(r"(?<![a-z])taesd(xl)?(?![a-z0-9])")
# a file that diffusers wrote is called so whatever is in it: its folder has the name then
_NAMELESS = "diffusion_pytorch_model"
_MOST_LEVELS = 8


@dataclass(frozen=True)
class Sizes:
    """A decoder's. `prefix`, `first`: a row of FORMS. `blocks`: of each level, inside out."""

    prefix: str
    first: int
    channels: int
    width: int
    blocks: tuple[int, ...]


def sizes_of(shapes: Shapes) -> Sizes | None:
    """The sizes of the decoder in a file; None if there is none."""
    for prefix, first in FORMS:
        shape = shapes.get(f"{prefix}{first}.weight", ())
        if len(shape) == 4 and f"{prefix}{first + 2}.conv.0.weight" in shapes:
            blocks = _blocks(shapes.keys(), prefix, first + 2)
            return Sizes(prefix, first, shape[1], shape[0], blocks)
    return None


def _blocks(names: Collection[str], prefix: str, at: int) -> tuple[int, ...]:
    """How many blocks each level has, or nothing if it has no end. Between levels there is a
    layer without weights, which enlarges, and a convolution; one ends the last.
    """
    levels: list[int] = []
    while len(levels) < _MOST_LEVELS:
        start = at
        while f"{prefix}{at}.conv.0.weight" in names:
            at += 1
        levels.append(at - start)
        if f"{prefix}{at}.weight" in names:
            return tuple(levels)
        at += 2
    return ()


def identify(shapes: Shapes) -> Finding | None:
    """What a file with a decoder or an encoder is; None if it has neither."""
    sizes = sizes_of(shapes)
    if sizes is None:
        first = shapes.get("0.weight", ())
        if len(first) == 4 and first[1] == 3 and "1.conv.0.weight" in shapes:
            return foreign("it is the encoder of a tiny autoencoder, of which the decoder is used")
        return None
    if sizes.channels != 4:
        return foreign(f"it is a tiny autoencoder of {sizes.channels} channels, of another family")
    if not sizes.blocks:
        return broken("it is a tiny autoencoder without an end")
    return Finding("vae", tiny=True)


def named_for(path: Path) -> str:
    """The arch whose latents a file or folder of this name is for; empty if it does not tell."""
    called = path.parent.name if path.stem == _NAMELESS else path.name
    found = _CALLED.search(called.lower())
    if found is None:
        return ""
    return "sdxl" if found[1] else "sd1"
