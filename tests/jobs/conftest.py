"""Services over scripted engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runai.jobs.service import Service
from runai.testing.scripted import ScriptedEngine


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
