"""`runai status`: what is in memory and which plan is in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runai.cli import main
from runai.schema.events import Holdings, Loaded, Memory
from runai.testing.scripted import ScriptedEngine

Capture = pytest.CaptureFixture[str]


class Holding(ScriptedEngine):
    """Says that it holds a model and a VAE."""

    def holdings(self) -> Holdings:
        loaded = [
            Loaded(name="VAE/soft", kind="vae", bytes=167_000_000, idle_s=12.0),
            Loaded(name="v1/one", bytes=2_130_000_000, kind="model", plan="tiling", in_use=True),
        ]
        return Holdings(
            loaded=loaded,
            loaded_bytes=2_297_000_000,
            free_bytes=5_000_000_000,
            max_bytes=8_000_000_000,
            lora_bytes=40_000_000,
            filter_bytes=1_216_000_000,
            prompt_cache_bytes=3_000_000,
        )

    def newest_memory(self) -> Memory:
        reason = "needs 9.1 GB, 7.6 GB free: tiling on"
        return Memory(plan="tiling", reason=reason, needed_bytes=1, free_bytes=2)


def test_status_tells_the_plan_in_force_and_what_is_in_memory(
    running: Callable[..., Any], capsys: Capture
) -> None:
    with running(Holding()) as port:
        assert main(["models", "--port", str(port)]) == 0  # the engine is made by then
        capsys.readouterr()
        assert main(["status", "--port", str(port)]) == 0
    assert capsys.readouterr().out.splitlines()[5:] == [
        "plan     tiling: needs 9.1 GB, 7.6 GB free: tiling on",
        "memory   2.3 GB loaded, 5.0 GB free, at most 8.0 GB",
        "           167 MB  vae VAE/soft, idle for 12 s",
        "           2.1 GB  model v1/one, tiling, in use",
        "            40 MB  LoRAs",
        "           1.2 GB  NSFW filter",
        "             3 MB  encoded prompts",
    ]
