"""The example model as an engine of its own, and what its training never showed it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from runai.engine.engine import TorchEngine

EXAMPLE = Path(__file__).parents[2] / "models.example"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchEngine]:
    threads = torch.get_num_threads()
    torch.set_num_threads(torch.multiprocessing.cpu_count())
    engine = TorchEngine(tmp_path_factory.mktemp("none"), example_path=EXAMPLE)
    yield engine
    engine.close()
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def held_out() -> list[tuple[str, str, str]]:
    """The combinations of shape, colour and background that training never showed."""
    path = EXAMPLE / "training" / "data.py"
    spec = importlib.util.spec_from_file_location("training_data", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.HELD_OUT)
