"""The example model, which the benchmarks draw with where nobody names another.

`full`: with a UNet of Stable Diffusion 1.5's size in its place, of random weights (860 million
parameters; 1.7 GB in bf16). It draws noise, and takes as long as a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from runai.engine import loading
from runai.engine.archs import ARCHS
from runai.engine.catalogue import Catalogue
from runai.engine.devices import choose
from runai.engine.engine import TorchEngine
from runai.engine.loading import load
from runai.engine.model import LoadedModel

FOLDER = Path(__file__).resolve().parent.parent / "models.example"


def example_model(*, full: bool = False) -> LoadedModel:
    model = load(Catalogue([FOLDER]).find("v1/shapes"), choose(), [FOLDER])
    return enlarged(model) if full else model


def enlarged(model: LoadedModel) -> LoadedModel:
    """The same with a UNet of full size."""
    config = {**ARCHS["sd1"].unet, "cross_attention_dim": model.unet.config.cross_attention_dim}
    torch.set_default_dtype(model.dtype)  # so that it is never in memory as fp32
    unet = UNet2DConditionModel.from_config(config).to(model.device).eval()
    torch.set_default_dtype(torch.float32)
    return replace(model, unet=unet)


@contextmanager
def example_engine(*beside: Path, full: bool = False, **options: Any) -> Iterator[TorchEngine]:
    """An engine over the example's models, and what lies in folders `beside`; with `full` every
    UNet is of full size.
    """
    read = loading.load
    if full:
        loading.load = lambda *args: enlarged(read(*args))
    engine = TorchEngine([FOLDER, *beside], **options)
    try:
        yield engine
    finally:
        engine.close()
        loading.load = read


def held(engine: TorchEngine, name: str = "v1/shapes") -> LoadedModel:
    """A model that an engine has in memory."""
    return engine._cache._held[engine._catalogue.find(name)].thing
