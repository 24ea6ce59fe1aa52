"""Models that the engine's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch

from runai.engine.engine import TorchEngine

torch.set_num_threads(1)  # the networks are tiny: threads would cost more than they give


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path: sd1 and an inpainting variant in v1/, a v-prediction model in v2/."""
    base = tmp_path_factory.mktemp("models")
    tiny.write_model(base / "v1" / "plain")
    tiny.write_model(base / "v1" / "painter-inpainting", channels=9, seed=1)
    tiny.write_model(base / "v2" / "velocity", prediction="v_prediction", seed=2)
    return base


@pytest.fixture(scope="session")
def engine(models: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(models, device="cpu", dtype="fp32")
    yield engine
    engine.close()
