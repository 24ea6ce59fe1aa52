"""`runai status`: what is in memory and which plan is in force."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

from runai.cli import main, status
from runai.client import Client
from runai.schema.events import CallTime, Completed, Holdings, Loaded, Memory, Status
from runai.schema.requests import TextToImage
from runai.schema.units import seconds_text
from runai.testing.scripted import ScriptedEngine

Capture = pytest.CaptureFixture[str]


class Holding(ScriptedEngine):
    """Says that it holds a model and a VAE."""

    def holdings(self) -> Holdings:
        loaded = [
            Loaded(name="VAE/soft", kind="vae", bytes=167_000_000, idle_s=12.0),
            Loaded(
                name="v1/one",
                bytes=2_130_000_000,
                kind="model",
                plan="tiling",
                backend="openvino",
                in_use=True,
            ),
        ]
        return Holdings(
            loaded=loaded,
            loaded_bytes=2_297_000_000,
            free_bytes=5_000_000_000,
            max_bytes=8_000_000_000,
            backend_bytes=3_400_000_000,
            lora_bytes=40_000_000,
            filter_bytes=1_216_000_000,
            prompt_cache_bytes=3_000_000,
        )

    def call_times(self) -> list[CallTime]:
        return [CallTime(rows=2, seconds=0.25), CallTime(rows=4, seconds=1.5)]

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
    said = capsys.readouterr().out.splitlines()
    held = [line for line in said[5:] if not line.startswith(("seats", "traffic"))]
    assert held == [
        "plan     tiling: needs 9.1 GB, 7.6 GB free: tiling on",
        "memory   2.3 GB loaded, 5.0 GB free, at most 8.0 GB",
        "           167 MB  vae VAE/soft, idle for 12 s",
        "           2.1 GB  model v1/one, tiling, by openvino, in use",
        "           3.4 GB  for OpenVINO or CUDA graphs",
        "            40 MB  LoRAs",
        "           1.2 GB  NSFW filter",
        "             3 MB  encoded prompts",
        "calls    2 rows 250 ms, 4 rows 1.50 s",
    ]


def test_while_the_server_starts_nothing_is_said_of_its_memory() -> None:
    starting = Status(
        state="starting", clients=1, queued=0, running=0, loaded_models=[], uptime_s=0
    )
    said = "\n".join(status._lines(starting))
    assert "memory" not in said


def draw(port: int) -> None:
    with Client("127.0.0.1", port) as client:
        for request_id in ("a", "b"):
            request = TextToImage(id=request_id, num_images=2, num_inference_steps=3)
            assert isinstance([*client.generate(request)][-1], Completed)
        for model, steps in (("none", 3), ("", 999)):
            request = TextToImage(id="c", model=model, num_inference_steps=steps)
            assert [*client.generate(request)][-1].type == "failed"


def test_status_tells_what_was_done_and_how_long_it_took(
    running: Callable[..., Any], capsys: Capture
) -> None:
    with running(ScriptedEngine()) as port:
        draw(port)
        assert main(["status", "--port", str(port)]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("requests"))
    assert lines[first : first + 4] == [
        "requests 3: 2 completed, 1 failed, 0 canceled",
        "drawn    4 pictures, 12 steps",
        "failed   1 model_not_found",
        "refused  1 too_many_steps",
    ]
    table = [line for line in lines[first + 4 :] if not line.startswith(("seats", "traffic"))]
    assert table[0].split() == ["stage", "times", "mean", "half", "in", "95", "%", "in"]
    assert re.fullmatch(r"  queue +3 .* ms +.* ms +.* ms", table[1])
    assert table[2:] == [
        "  load         1   2.00 s   2.00 s   2.00 s",
        "  encode       2   250 ms   250 ms   250 ms",
        "  step         6   500 ms   500 ms   500 ms",
        "  decode       4   125 ms   125 ms   125 ms",
        "  png          4  62.5 ms  62.5 ms  62.5 ms",
    ]


def test_json_has_everything(running: Callable[..., Any], capsys: Capture) -> None:
    with running(ScriptedEngine()) as port:
        draw(port)
        assert main(["status", "--port", str(port), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["counters"]["refused"] == {"too_many_steps": 1}
    assert {t["stage"]: t["count"] for t in said["timings"]}["step"] == 6


def test_watching_goes_on_until_it_is_stopped(
    running: Callable[..., Any], start: Callable[..., Any]
) -> None:
    with running(ScriptedEngine()) as port:
        child = start("-m", "runai", "status", "--watch", "--port", str(port))
        for _ in range(2):
            assert any(line.startswith("state ") for line in child.process.stdout)
        child.signal(signal.SIGINT)
        assert child.end() == 130


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 ms"), (0.0123, "12.3 ms"), (0.25, "250 ms"), (1.5, "1.50 s"), (75.4, "75 s")],
)
def test_seconds_are_written_as_people_read_them(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
