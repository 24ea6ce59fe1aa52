"""`runai generate`, with an embedded server and with a running one."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from runai.cli import main
from runai.errors import NotFinite
from runai.schema.events import Accepted, Canceled
from runai.testing.scripted import Fault, ScriptedEngine, plain_picture

Capture = pytest.CaptureFixture[str]


class Recording(ScriptedEngine):
    """Keeps the requests it is asked for, and can fail the first."""

    def __init__(self, failure: Exception | None = None, after_steps: int = 1) -> None:
        super().__init__()
        self.asked: list[Any] = []
        self._failure = failure
        self._after_steps = after_steps

    def admit(self, key: str, request: Any, owner: int = 0) -> None:
        self.asked.append(request)
        if self._failure is not None:
            self.faults = {request.id: Fault(self._failure, self._after_steps)}
        super().admit(key, request, owner)


def picture(path: Path, mode: str = "RGB", side: int = 64) -> str:
    Image.new(mode, (side, side), 255 if mode == "L" else (255, 0, 0)).save(path)
    return str(path)


def test_without_a_server_one_is_started_and_the_picture_is_saved(
    dead_port: int, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "circle.png"
    words = ["generate", "a red circle", "-o", str(path), "--seed", "5", "--port", str(dead_port)]
    before = threading.active_count()
    assert main(words, make_engine=ScriptedEngine) == 0
    assert threading.active_count() == before
    printed = capsys.readouterr()
    assert printed.out == f"{path} (seed 5)\n"
    assert "No server is running" in printed.err
    assert "Loading shapes." in printed.err
    with Image.open(path) as saved:
        assert saved.size == (64, 64)
    assert [file.name for file in tmp_path.iterdir()] == ["circle.png"]


def test_a_running_server_is_used_and_goes_on(
    running: Callable[..., Any], tmp_path: Path, capsys: Capture
) -> None:
    engine = Recording()
    path = tmp_path / "out.png"
    with running(engine) as port:
        words = ["generate", "a red circle", "-o", str(path), "--seed", "5", "--port", str(port)]
        assert main(words, make_engine=_must_not_be_made) == 0
        assert main(words, make_engine=_must_not_be_made) == 0
    assert len(engine.asked) == 2
    assert "No server" not in capsys.readouterr().err
    assert path.read_bytes() == plain_picture(engine.asked[0], 64, 64, 5)


def _must_not_be_made() -> ScriptedEngine:
    raise AssertionError("There is a server already.")


def test_every_option_reaches_the_request(
    running: Callable[..., Any], tmp_path: Path, capsys: Capture
) -> None:
    engine = Recording()
    image = picture(tmp_path / "image.png")
    options = {
        "--negative": "blue",
        "--steps": "4",
        "--guidance": "2.5",
        "--sampler": "DPM++ 2M",
        "--eta": "0.5",
        "--seed": "9",
        "--guidance-start": "0.1",
        "--guidance-end": "0.8",
        "--reuse": "3",
        "--token-merging": "0.5",
        "--size": "128x64",
        "--image": image,
        "--strength": "0.5",
        "-n": "3",
        "--model": "other",
        "--model-version": "xl",
        "--vae": "soft",
        "--clip-skip": "2",
        "--prompt-dialect": "compel",
        "--memory-plan": "tiling",
    }
    words = [word for pair in options.items() for word in pair]
    words += ["--lora", "outline", "--lora", "style:0.5", "--lora", "other:-1:0"]
    with running(engine) as port:
        command = ["generate", "p", "--port", str(port), "-o", str(tmp_path / "o.png")]
        assert main([*command, *words, "--nsfw-filter"]) == 0
    (asked,) = engine.asked
    assert asked.model_dump(exclude={"id", "image", "type"}) == {
        "task": "img2img",
        "prompt": "p",
        "negative_prompt": "blue",
        "num_inference_steps": 4,
        "guidance_scale": 2.5,
        "sampler": "dpmpp_2m",
        "eta": 0.5,
        "seed": 9,
        "width": 128,
        "height": 64,
        "strength": 0.5,
        "num_images": 3,
        "model": "other",
        "model_version": "xl",
        "model_fallback": False,
        "preview": False,
        "nsfw_filter": True,
        "prompt_dialect": "compel",
        "clip_skip": 2,
        "loras": [
            {"name": "outline", "weight": 1.0, "text_weight": None},
            {"name": "style", "weight": 0.5, "text_weight": None},
            {"name": "other", "weight": -1.0, "text_weight": 0.0},
        ],
        "vae": "soft",
        "image_guidance_scale": 1.5,
        "guidance_start": 0.1,
        "guidance_end": 0.8,
        "reuse": 3,
        "token_merging": 0.5,
        "memory_plan": "tiling",
        "watermark": False,
    }
    assert asked.image == Path(image).read_bytes()
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/o-{i}.png (seed {9 + i})" for i in range(3)
    ]


@pytest.mark.parametrize(
    ("given", "task"),
    [
        ([], "txt2img"),
        (["--image"], "img2img"),
        (["--image", "--mask"], "inpaint"),
        (["--image", "--task", "outpaint"], "outpaint"),
        (["--image", "--task", "upscale"], "upscale"),
    ],
)
def test_the_task_is_told_by_what_is_given(
    running: Callable[..., Any], tmp_path: Path, given: list[str], task: str
) -> None:
    files = {
        "--image": picture(tmp_path / "i.png"),
        "--mask": picture(tmp_path / "m.png", "L"),
    }
    words = [word for flag in given for word in (flag, files.get(flag)) if word]
    engine = Recording()
    with running(engine) as port:
        output = str(tmp_path / "out.png")
        assert main(["generate", "p", "-o", output, "--port", str(port), *words]) == 0
    assert engine.asked[0].task == task


def test_a_sidecar_has_all_parameters_of_its_picture(
    dead_port: int, tmp_path: Path, capsys: Capture
) -> None:
    words = ["generate", "ein Kreis, grün", "-o", str(tmp_path / "o.png"), "--sidecar"]
    words += ["-n", "2", "--seed", "7", "--steps", "3", "--port", str(dead_port)]
    assert main(words, make_engine=ScriptedEngine) == 0
    first, second = (
        yaml.safe_load((tmp_path / f"o-{i}.yaml").read_text("utf-8")) for i in range(2)
    )
    assert (first["seed"], second["seed"]) == (7, 8)
    assert first["prompt"] == "ein Kreis, grün"
    assert first["num_inference_steps"] == 3
    assert first["model"] == "shapes"
    assert {**first, "seed": 8} == second


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "0"], "runai: --steps: "),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--size", "big"], "argument --size: 'big' is not WIDTHxHEIGHT"),
        (["--size", "65x64"], "runai: --size: "),
        (["--sampler", "magic"], "runai: --sampler: There is no sampler 'magic'"),
        (["--guidance", "nan"], "runai: --guidance: "),
        (["--strength", "0.5"], "runai: --strength: "),
        (["--image", "/nowhere.png"], "/nowhere.png cannot be read: No such file"),
        (["--mask", __file__], "runai: --mask: there is no picture to mask. Give --image too."),
        (["-n", "65"], "runai: --images: "),
        (["--model-version", "v3"], "runai: --model-version: "),
        (["--task", "upscale"], "runai: --image: "),
        (["--task", "upscale", "--image", __file__, "--size", "64x64"], "runai: --size: "),
        (["--lora", "outline:much"], "'outline:much' is not NAME[:WEIGHT[:TEXT_WEIGHT]]"),
        (["--lora", "outline:1:1:1"], "'outline:1:1:1' is not NAME"),
        (["--lora", ":1"], "':1' is not NAME"),
        (["--lora", "a", "--lora", "outline:11"], "runai: --lora: "),
        (["--lora", "outline:nan"], "runai: --lora: "),
        (["--clip-skip", "12"], "runai: --clip-skip: "),
        (["--prompt-dialect", "latin"], "runai: --prompt-dialect: "),
        (["--memory-plan", "small"], "runai: --memory-plan: "),
        (["-o", "/nowhere/out.png"], "runai: -o: there is no folder /nowhere."),
        (["-o", "out.jpg"], "runai: -o: out.jpg does not end in .png."),
        (["--port", "x"], "runai: --port: 'x' is not a whole number"),
    ],
)
def test_a_wrong_option_is_said_in_one_line_before_anything_is_started(
    capsys: Capture, words: list[str], said: str
) -> None:
    assert main(["generate", "p", *words], make_engine=_must_not_be_made) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_a_request_that_fails_is_one_line_and_no_file(
    dead_port: int, tmp_path: Path, capsys: Capture
) -> None:
    words = ["generate", "p", "-o", str(tmp_path / "o.png"), "--port", str(dead_port)]
    assert main(words, make_engine=lambda: Recording(NotFinite("The model gave NaN."))) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "runai: The model gave NaN. Start the server with --dtype fp32, or choose another model. "
        "[not_finite]"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_model_is_said(dead_port: int, tmp_path: Path, capsys: Capture) -> None:
    words = ["generate", "p", "-o", str(tmp_path / "o.png"), "--port", str(dead_port)]
    assert main([*words, "--model", "none"], make_engine=ScriptedEngine) == 1
    assert "There is no model 'none'." in capsys.readouterr().err.splitlines()[-1]


def test_an_engine_that_cannot_be_made_is_one_line(
    dead_port: int, tmp_path: Path, capsys: Capture
) -> None:
    def make() -> ScriptedEngine:
        raise NotFinite("Broken.", hint="Mend it.")

    words = ["generate", "p", "-o", str(tmp_path / "o.png"), "--port", str(dead_port)]
    assert main(words, make_engine=make) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "runai: Broken. Mend it. [not_finite]"


def test_limits_of_the_embedded_server_are_those_of_the_flags(
    dead_port: int, tmp_path: Path, capsys: Capture
) -> None:
    words = ["generate", "p", "-o", str(tmp_path / "o.png"), "--port", str(dead_port)]
    assert main([*words, "--max-steps", "3", "--steps", "4"], make_engine=ScriptedEngine) == 1
    assert capsys.readouterr().err.endswith("[too_many_steps]\n")


def test_a_server_on_another_computer_is_not_replaced_by_an_embedded_one(
    dead_port: int, tmp_path: Path, capsys: Capture
) -> None:
    words = ["generate", "p", "-o", str(tmp_path / "o.png"), "--port", str(dead_port)]
    elsewhere = ["--host", "0.0.0.0", "--insecure"]
    assert main([*words, *elsewhere], make_engine=_must_not_be_made) == 1
    assert capsys.readouterr().err.endswith("[no_server]\n")


def test_notes_about_what_was_done_otherwise_are_shown(
    running: Callable[..., Any], tmp_path: Path, capsys: Capture
) -> None:
    class Noting(ScriptedEngine):
        def step(self) -> Any:
            for drawing in self._drawings.values():
                drawing.notes = ["The prompt was too long."]
            return super().step()

    with running(Noting()) as port:
        words = ["generate", "p", "-o", str(tmp_path / "o.png"), "--port", str(port)]
        assert main(words) == 0
    assert "The prompt was too long.\n" in capsys.readouterr().err


def test_ctrl_c_cancels_the_request(
    running: Callable[..., Any],
    start: Callable[..., Any],
    another: Callable[[int], None],
    tmp_path: Path,
) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    with running(engine) as port:
        output = str(tmp_path / "o.png")
        child = start("-m", "runai", "generate", "p", "-o", output, "--port", str(port))
        engine.gate.wait_until_reached()
        child.signal(signal.SIGINT)
        assert child.end() == 130
        assert child.seen.splitlines()[-1] == "runai: Canceled."
        assert "Traceback" not in child.seen
        engine.gate.open()
        another(port)
    assert list(tmp_path.glob("*.png")) == []
    assert len(engine.requests("drop")) == 1


def test_a_second_ctrl_c_leaves_a_server_that_does_not_answer(
    stage: Any, start: Callable[..., Any], tmp_path: Path
) -> None:
    is_asked = threading.Event()

    def script(peer: Any) -> None:
        peer.welcome()
        of = peer.read()["id"]
        peer.say(Accepted(id=of, position=1))
        assert peer.read() == {"type": "cancel", "id": of}
        is_asked.set()
        peer.wait_until_left()

    stage.play(script)
    words = ["-m", "runai", "generate", "p", "-o", str(tmp_path / "o.png")]
    child = start(*words, "--host", "127.0.0.1", "--port", str(stage.port))
    child.wait_for(r"Waiting: 1 request\(s\) before this one\.")
    child.signal(signal.SIGINT)
    assert is_asked.wait(20)
    child.signal(signal.SIGINT)
    assert child.end() == 130
    assert child.seen.splitlines()[-1] == "runai: Canceled."


def test_a_request_that_the_server_cancels_is_a_failure(
    stage: Any, tmp_path: Path, capsys: Capture
) -> None:
    def script(peer: Any) -> None:
        peer.welcome()
        peer.say(Canceled(id=peer.read()["id"]))
        peer.wait_until_left()

    stage.play(script)
    words = ["generate", "p", "-o", str(tmp_path / "o.png"), "--host", "127.0.0.1"]
    assert main([*words, "--port", str(stage.port)]) == 1
    assert capsys.readouterr().err.startswith("runai: The server has canceled the request.")


def test_a_picture_that_cannot_be_written_is_said(
    running: Callable[..., Any], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "o.png").mkdir()
    with running(ScriptedEngine()) as port:
        words = ["generate", "p", "-o", str(tmp_path / "o.png"), "--port", str(port)]
        assert main(words) == 1
    assert f"runai: {tmp_path}/o.png cannot be written: Is a directory." in capsys.readouterr().err


def test_a_server_that_goes_away_is_said(
    running: Callable[..., Any], start: Callable[..., Any], tmp_path: Path
) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    with running(engine, write_deadline_s=0.0) as port:
        output = str(tmp_path / "o.png")
        child = start("-m", "runai", "generate", "p", "-o", output, "--port", str(port))
        engine.gate.wait_until_reached()
    assert child.end() == 1
    assert child.seen.splitlines()[-1].startswith("runai: The server has ")


def test_steps_are_shown_as_a_bar_on_a_terminal(
    running: Callable[..., Any], tmp_path: Path
) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    engine.gate.let_pass(10)
    terminal, behind = pty.openpty()
    termios.tcsetwinsize(behind, (24, 80))
    words = ["-m", "runai", "generate", "p", "-o", str(tmp_path / "o.png")]
    with running(engine) as port:
        child = subprocess.Popen([sys.executable, *words, "--port", str(port)], stderr=behind)
        os.close(behind)
        alarm = threading.Timer(30, child.kill)  # then reading from the terminal fails
        alarm.start()
        with child:
            shown = _read_until(b"10/20", terminal)
            engine.gate.open()
            shown += _read_until(b"20/20", terminal)
        alarm.cancel()
    os.close(terminal)
    assert child.returncode == 0
    assert b"Loading shapes." in shown


def _read_until(wanted: bytes, terminal: int) -> bytes:
    shown = b""
    while wanted not in shown:
        shown += os.read(terminal, 4096)
    return shown
