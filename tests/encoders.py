"""Models that matter for their text encoders only: tiny ones, of several layers.

Their tokens are single letters, so that a text's number of tokens can be counted by eye. A
count of the calls shows whether an encoder was asked at all.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import tiny
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from runai.engine.archs import ARCHS, Defaults
from runai.engine.catalogue import Catalogue
from runai.engine.devices import choose
from runai.engine.loading import load
from runai.engine.model import LoadedModel, TextEncoder
from runai.engine.prompts import Conditioning, Prompts
from runai.schema.codec import parse_task

LAYERS = 4
WIDTHS = (16, 24)


def make_encoder(folder: Path, width: int, *, padding: str, projected: bool) -> TextEncoder:
    size = tiny.write_tokenizer(folder, padding)
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        max_position_embeddings=tiny.TOKENS,
        projection_dim=width,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
    )
    network = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    _fill(network)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    layer = -2 if projected else -1
    return TextEncoder(tokenizer, network.eval().requires_grad_(False), layer, projected)


@torch.no_grad()
def _fill(network: Any) -> None:
    """Weights that no version of a library changes, large enough that texts differ."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in sorted(network.named_parameters()):
        drawn = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            weight.copy_(drawn * (0.5 if "embedding" in name else weight.shape[-1] ** -0.5))
        else:
            weight.copy_(drawn * 0.1 + ("norm" in name and name.endswith("weight")))


def make_models(folder: Path) -> dict[str, LoadedModel]:
    """By arch: sd1, sd2 (another padding), sdxl (two encoders), sdxl-refiner (the second)."""
    torch.set_num_threads(1)  # the networks are tiny: threads would cost more than they give
    tiny.write_model(folder / "models" / "v1" / "plain")
    catalogue = Catalogue([folder / "models"])
    loaded = load(catalogue.find("v1/plain"), choose("cpu", "fp32"), catalogue.base_paths)
    first, second = WIDTHS
    clip = make_encoder(folder / "1", first, padding="<|endoftext|>", projected=False)
    open_clip = make_encoder(folder / "2", first, padding="!", projected=False)
    large = make_encoder(folder / "3", second, padding="!", projected=True)
    texts = {
        "sd1": (clip,),
        "sd2": (open_clip,),
        "sdxl": (replace(clip, layer=-2), large),
        "sdxl-refiner": (large,),
    }
    return {name: replace(loaded, arch=ARCHS[name], texts=t) for name, t in texts.items()}


def encode(
    model: LoadedModel, prompts: Prompts | None = None, *, embeddings: Any = None, **fields: Any
) -> Conditioning:
    """The conditioning of a request; guided and of 20 steps unless it says otherwise."""
    loras = fields.pop("loras", ())
    request = parse_task({"id": "r", "task": "txt2img", **fields})
    choices = Defaults().overridden_by(request)
    prompts = prompts or Prompts(0)
    return prompts.encode(model, request, choices, loras=loras, embeddings=embeddings)


def positive(conditioning: Conditioning) -> torch.Tensor:
    return conditioning.positive[0].text.embedding


def negative(conditioning: Conditioning) -> torch.Tensor:
    assert conditioning.negative is not None
    return conditioning.negative[0].text.embedding


class Calls:
    """Counts the calls of a model's text encoders."""

    def __init__(self, model: LoadedModel) -> None:
        self.number = 0
        self._hooks = [t.network.register_forward_hook(self._count) for t in model.texts]

    def _count(self, *_: Any) -> None:
        self.number += 1

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
