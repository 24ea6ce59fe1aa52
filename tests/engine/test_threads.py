"""How many threads a processor draws with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from drawn import draw

from runai.engine import threads
from runai.engine.catalogue import Catalogue
from runai.engine.devices import choose
from runai.engine.engine import TorchEngine
from runai.engine.loading import load


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_small_network_is_drawn_with_one_thread(engine: TorchEngine) -> None:
    torch.set_num_threads(2)
    draw(engine)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("is_small", "wanted"), [(True, 1), (False, 2)])
def test_a_network_of_full_size_is_drawn_with_all(
    models: Path, is_small: bool, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "ALL", 2)
    torch.set_num_threads(1)
    entry = Catalogue([models]).find("v1/plain", "v1")
    model = load(entry, choose("cpu", "fp32"), [models])
    vars(model)["is_small"] = is_small
    threads.set_for(model)
    assert torch.get_num_threads() == wanted
