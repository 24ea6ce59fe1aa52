"""The scripted engine keeps the promises of an engine."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from runai.errors import ModelNotFound, NotFinite
from runai.jobs.engine import Engine
from runai.jobs.service import Service
from runai.schema.events import Completed, Failed, JobEvent, Progress
from runai.schema.requests import GenerationRequest, ImageToImage
from runai.testing import scripted
from runai.testing.scripted import Fault, Gate, ScriptedEngine, plain_picture
from tests.jobs.asking import ask


def draw(engine: Engine, request: GenerationRequest) -> list[JobEvent]:
    engine.admit("key", request)
    events: list[JobEvent] = []
    while engine.is_busy():
        events += [event for _, event in engine.step()]
    return events


def size_of(completed: JobEvent) -> tuple[int, int]:
    assert isinstance(completed, Completed)
    with Image.open(io.BytesIO(completed.images[0].png)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return image.size


def test_the_pictures_have_the_size_that_was_asked_for() -> None:
    assert size_of(draw(ScriptedEngine(), ask("a", width=96, height=64))[-1]) == (96, 64)


def test_a_picture_from_a_picture_has_its_size_rounded_down() -> None:
    given = plain_picture(ask("a"), 100, 70, 1)
    assert size_of(draw(ScriptedEngine(), ImageToImage(id="a", image=given))[-1]) == (96, 64)


def test_the_same_request_gives_the_same_events() -> None:
    request = ask("a", num_images=2, seed=None)
    assert draw(ScriptedEngine(), request) == draw(ScriptedEngine(), request)
    last = draw(ScriptedEngine(), request)[-1]
    assert isinstance(last, Completed)
    assert last.images[0].png != last.images[1].png


def test_progress_counts_the_steps_of_all_pictures() -> None:
    events = draw(ScriptedEngine(), ask("a", num_inference_steps=3, num_images=2))
    steps = [(event.step, event.total) for event in events if isinstance(event, Progress)]
    assert steps == [(2, 6), (4, 6), (6, 6)]


def test_strength_shortens_the_way() -> None:
    given = plain_picture(ask("a"), 64, 64, 1)
    request = ImageToImage(id="a", image=given, num_inference_steps=20, strength=0.25)
    steps = [event for event in draw(ScriptedEngine(), request) if isinstance(event, Progress)]
    assert len(steps) == 5


def test_a_model_that_is_not_there_falls_back_only_if_that_was_asked_for() -> None:
    with pytest.raises(ModelNotFound):
        draw(ScriptedEngine(), ask("a", model="nowhere"))
    last = draw(ScriptedEngine(), ask("a", model="nowhere", model_fallback=True))[-1]
    assert isinstance(last, Completed)
    assert last.parameters.model == "shapes"
    assert "nowhere" in last.notes[0]


def test_only_so_many_models_stay_warm() -> None:
    engine = ScriptedEngine(max_loaded=1)
    assert not engine.is_warm(ask("a"))
    draw(engine, ask("a"))
    assert engine.is_warm(ask("b"))
    draw(engine, ask("c", model="other"))
    assert not engine.is_warm(ask("d"))
    assert [model.name for model in engine.models() if model.loaded] == ["other"]


def test_a_fault_comes_when_it_is_scripted_to() -> None:
    engine = ScriptedEngine(faults={"a": Fault(NotFinite("NaN."), after_steps=2)})
    events = draw(engine, ask("a", num_inference_steps=9))
    assert [type(event) for event in events] == [Progress, Progress, Failed]


def test_a_step_without_anything_to_draw_does_nothing() -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    assert engine.step() == []
    engine.drop("unknown")
    assert engine.log == []


def test_a_gate_that_nobody_opens_is_an_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "PATIENCE_S", 0.01)
    gate = Gate()
    gate.close()
    with pytest.raises(TimeoutError, match="never opened"):
        gate.enter()
    gate.let_pass()
    gate.enter()


def test_what_cannot_be_used_is_listed_with_its_reason() -> None:
    engine = ScriptedEngine(useless={"v1/broken.ckpt": "It ends too early."})
    service = Service(lambda: engine)
    service.start()
    found = service.models().unusable
    service.stop()
    assert [(row.name, row.reason) for row in found] == [("v1/broken.ckpt", "It ends too early.")]
