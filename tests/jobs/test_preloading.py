"""A model that is there before anybody asks for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runai.errors import OutOfMemory
from runai.jobs.service import Service
from runai.schema.events import Completed, Loading
from runai.testing.scripted import ScriptedEngine
from tests.jobs.asking import ask, end_of, take_until_end

Serve = Callable[..., Service]


@pytest.mark.parametrize(("preload", "model"), [("", "shapes"), ("other", "other")])
def test_the_first_request_for_a_preloaded_model_loads_nothing(
    serve: Serve, preload: str, model: str
) -> None:
    engine = ScriptedEngine()
    engine.loading_gate.close()
    service = serve(engine, preload=preload)
    engine.loading_gate.wait_until_reached()
    assert service.status().state == "loading"
    session = service.open_session()
    session.submit(ask("a", model=model))
    engine.loading_gate.open()
    assert not any(isinstance(event, Loading) for event in take_until_end(session, "a"))
    assert engine.requests("load") == [model]


@pytest.mark.parametrize(
    ("preload", "breaks"),
    [("none of this name", {}), ("", {"preload": [OutOfMemory("No."), ValueError("No.")]})],
)
def test_a_model_that_cannot_be_preloaded_keeps_nobody_from_drawing(
    serve: Serve, preload: str, breaks: dict[str, list[BaseException]]
) -> None:
    service = serve(ScriptedEngine(breaks=breaks), preload=preload)
    session = service.open_session()
    session.submit(ask("a"))
    assert isinstance(end_of(session, "a"), Completed)
    assert service.status().state == "ready"
