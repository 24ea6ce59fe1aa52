"""Tiny models of every arch as single files, and the archs' table with their sizes in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ldm
import tiny
import torch

from runai.engine.archs import ARCHS, Arch, TextEncoding
from runai.engine.catalogue import Entry

NAMES = tuple(name for name in tiny.MODELS if name in ARCHS)


def write_vocabulary(base: Path) -> int:
    """The tiny vocabulary where a base path has CLIP's; the number of its tokens."""
    return tiny.write_tokenizer(base / "openai" / "clip-vit-large-patch14")


def tiny_arch(name: str, tokens: int) -> Arch:
    """A row of the real table with the tiny networks' configurations."""
    row, arch = tiny.MODELS[name], ARCHS[name]
    texts = tuple(replace(text, config=_text_config(text, tokens)) for text in arch.texts)
    unet = {**tiny.unet_config(**row.unet), "sample_size": arch.unet["sample_size"]}
    return replace(arch, unet=unet, vae=row.vae, texts=texts)


def tiny_archs(tokens: int) -> dict[str, Arch]:
    return {name: tiny_arch(name, tokens) for name in NAMES}


def _text_config(text: TextEncoding, tokens: int) -> dict[str, Any]:
    config: dict[str, Any] = tiny.make_text_encoder(tokens).config.to_dict()
    return config


@dataclass
class Networks:
    """The networks that a file is written from."""

    unet: Any
    vae: Any
    texts: list[Any]

    @property
    def all(self) -> list[Any]:
        return [self.unet, self.vae, *self.texts]


def make_networks(arch: Arch) -> Networks:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        texts = [
            tiny.make_text_encoder(
                text.config["vocab_size"], text.config["hidden_size"], projected=text.pooled
            )
            for text in arch.texts
        ]
        return Networks(tiny.make_unet(arch.unet), tiny.make_vae(arch.vae), texts)


def parts_of(arch: Arch, made: Networks) -> list[ldm.Weights]:
    """The original's state dict of an arch, in parts: UNet, VAE, text encoders."""
    kinds = {"clip": ldm.clip_weights, "open_clip": ldm.open_clip_weights}
    texts = [
        kinds[text.kind](network, text.prefix)
        for text, network in zip(arch.texts, made.texts, strict=True)
    ]
    return [ldm.unet_weights(made.unet), ldm.vae_weights(made.vae), *texts]


def write(
    path: Path,
    arch: Arch,
    metadata: dict[str, str] | None = None,
    dtype: torch.dtype = torch.float16,
) -> Entry:
    """A single file of an arch's tiny networks, and its entry."""
    parts = parts_of(arch, make_networks(arch))
    ldm.write_checkpoint(path, parts, metadata or {}, dtype)
    return entry_of(path, arch)


def entry_of(path: Path, arch: Arch) -> Entry:
    format_: Any = "ckpt" if path.suffix == ".ckpt" else "safetensors"
    return Entry(f"{arch.version}/{path.stem}", arch.version, format_, path, arch=arch.name)
