"""Services over scripted engines."""

from __future__ import annotations

import faulthandler
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runai.jobs.service import Service
from runai.testing.scripted import ScriptedEngine
from tests.jobs.asking import PATIENCE_S


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """The last resort: a test that hangs all the same ends the run, and shows where."""
    faulthandler.dump_traceback_later(6 * PATIENCE_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    """Makes started services; they are stopped at the end, with their gates opened."""
    made: list[tuple[Service, ScriptedEngine]] = []

    def make(engine: ScriptedEngine, **options: Any) -> Service:
        service = Service(lambda: engine, **options)
        made.append((service, engine))
        service.start()
        return service

    yield make
    for service, engine in made:
        engine.gate.open()
        engine.loading_gate.open()
        engine.finishing_gate.open()
        service.stop()
