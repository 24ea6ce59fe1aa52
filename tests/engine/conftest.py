"""Models that the engine's tests share.

Torch is imported by the fixtures, not here: the tests of detection, catalogue and geometry need
none, and are over before it would have been imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from runai.engine.engine import TorchEngine


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path: sd1 and an inpainting variant in v1/, a v-prediction model in v2/."""
    import tiny
    import torch

    torch.set_num_threads(1)  # the networks are tiny: threads would cost more than they give
    base = tmp_path_factory.mktemp("models")
    tiny.write_model(base / "v1" / "plain")
    tiny.write_model(base / "v1" / "painter-inpainting", channels=9, seed=1)
    tiny.write_model(base / "v2" / "velocity", prediction="v_prediction", seed=2)
    return base


@pytest.fixture(scope="session")
def engine(models: Path) -> Iterator[TorchEngine]:
    from runai.engine.engine import TorchEngine

    # a fixed batch: what is measured differs from run to run
    engine = TorchEngine(models, device="cpu", dtype="fp32", max_batch=8)
    yield engine
    engine.close()


@pytest.fixture
def drawers(models: Path) -> Iterator[Callable[..., TorchEngine]]:
    """Makes engines that have drawn once: their model is in memory."""
    from drawn import draw

    from runai.engine.engine import TorchEngine

    made = []

    def make(**options: Any) -> TorchEngine:
        made.append(TorchEngine(models, device="cpu", dtype="fp32", **options))
        draw(made[-1])
        return made[-1]

    yield make
    for engine in made:
        engine.close()
