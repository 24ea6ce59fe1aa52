"""The example model, which the benchmarks draw with where nobody names another."""

from __future__ import annotations

from pathlib import Path

from runai.engine.catalogue import Catalogue
from runai.engine.devices import choose
from runai.engine.loading import load
from runai.engine.model import LoadedModel

FOLDER = Path(__file__).resolve().parent.parent / "models.example"


def example_model() -> LoadedModel:
    return load(Catalogue([FOLDER]).find("v1/shapes"), choose(), [FOLDER])
