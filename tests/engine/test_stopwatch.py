"""The engine says what it spent its time on, and for whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn import make_request

from runai.engine import stopwatch
from runai.engine.engine import TorchEngine
from runai.engine.stopwatch import Stopwatch
from runai.errors import RunAIError
from runai.schema.late import Late


@pytest.fixture
def fresh(models: Path) -> Iterator[TorchEngine]:
    """An engine of its own, with nothing loaded."""
    engine = TorchEngine(models, device="cpu", dtype="fp32", max_batch=8)
    yield engine
    engine.close()


def stages(engine: TorchEngine, key: str) -> Counter[str]:
    spent = engine.take_timings()
    assert all(one.seconds > 0 for one in spent)
    return Counter(one.stage for one in spent if key in one.keys)


def test_each_stage_is_timed_for_its_request_and_told_once(fresh: TorchEngine) -> None:
    request = make_request(id="a", num_images=2, num_inference_steps=3)
    fresh.admit("key", request)
    assert stages(fresh, "key") == {"load": 1, "encode": 1}
    while fresh.is_busy():
        events = fresh.step()
    assert isinstance(events[-1][1], Late)
    assert stages(fresh, "key") == {"step": 3, "decode": 2}, "writing is another thread's"
    assert fresh.take_timings() == []
    fresh.admit("warm", request)
    assert stages(fresh, "warm") == {"encode": 1}


def test_a_shared_step_is_timed_for_all_who_share_it(fresh: TorchEngine) -> None:
    for key in ("a", "b"):
        fresh.admit(key, make_request(id=key, num_inference_steps=2))
    fresh.take_timings()
    fresh.step()
    (step,) = fresh.take_timings()
    assert (step.stage, set(step.keys)) == ("step", {"a", "b"})


def test_what_fails_has_taken_its_time_as_well(models: Path, tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    broken = tmp_path / "v1" / "plain"
    broken.mkdir()
    for path in (models / "v1" / "plain").rglob("*"):
        to = broken / path.relative_to(models / "v1" / "plain")
        if path.is_dir():
            to.mkdir()
        else:
            to.write_bytes(path.read_bytes())
    weights = next((broken / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    engine = TorchEngine(tmp_path, device="cpu", dtype="fp32")
    with pytest.raises(RunAIError):
        engine.admit("a", make_request(id="a"))
    assert stages(engine, "a") == {"load": 1}
    engine.close()


def test_what_nobody_asks_for_is_forgotten_the_oldest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stopwatch, "MOST_KEPT", 2)
    watch = Stopwatch()
    for key in ("a", "b", "c"):
        watch.keys = (key,)
        with watch.time("step"):
            pass
    assert [spent.keys for spent in watch.take()] == [("b",), ("c",)]
