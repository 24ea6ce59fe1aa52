"""Fixtures of the tests of faults: servers to break, and the table; see `watching`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import children
import pytest

from runai.testing.scripted import ScriptedEngine
from tests.faults.servers import Apart, Drawing, Here
from tests.faults.watching import Table

SERVE = "import sys; from runai.cli import main; sys.exit(main())"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of whoever runs the tests is seen by the children. What they free, the kernel has
    back: otherwise the C library's heaps grow by steps of tens of MiB, whatever is kept.
    """
    for variable in [v for v in os.environ if v.startswith("RUNAI_") or v == "BASE_DIR"]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(256 * 2**10))


@pytest.fixture(scope="session")
def table() -> Iterator[Table]:
    """`with table.survived(fault, server) as watch`: break it, and see that it goes on."""
    path = os.environ.get("RUNAI_FAULT_TABLE")
    made = Table()
    yield made
    if path:
        made.write(Path(path))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def scripted(stack: ExitStack) -> Callable[..., Here]:
    """`scripted(engine)`: a server of this process over a scripted engine; `options`: of `Here`."""

    def make(engine: ScriptedEngine, **options: Any) -> Here:
        server = Here(lambda: engine, **options)
        stack.callback(server.end)
        stack.callback(engine.gate.open)
        stack.callback(engine.loading_gate.open)
        return server

    return make


@pytest.fixture
def child(stack: ExitStack) -> Callable[..., Apart]:
    """`child("--port", "0", script=…)`: a server that is a process; `env`: variables more."""

    def make(
        *words: str, script: str = SERVE, env: dict[str, str] | None = None, **more: Any
    ) -> Apart:
        started = children.python("-c", script, *words, env={**os.environ, **(env or {})}, **more)
        stack.callback(started.close)
        return Apart(started)

    return make


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with one tiny model, v1/plain, as a diffusers folder. Copy it to break it."""
    import tiny
    import torch

    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("models")
    tiny.write_model(base / "v1" / "plain")
    return base


@pytest.fixture
def drawing(stack: ExitStack, models: Path) -> Callable[..., Drawing]:
    """`drawing()`: a server of this process with tiny models."""

    def make(base: Path = models, **options: Any) -> Drawing:
        server = Drawing(base, **options)
        stack.callback(server.end)
        return server

    return make
