"""What the log says of requests, and that it says nothing of what is private in them."""

from __future__ import annotations

import base64
import errno
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from drawn import as_base64, photo

from runai.cli import logs
from runai.cli.embedded import embedded
from runai.cli.log_lines import ALLOWED, JsonLines, Lines
from runai.jobs.journal import SECONDS, describe
from runai.schema.requests import ImageToImage, Lora, TextToImage
from runai.schema.stages import MEANINGS
from runai.settings import Settings
from runai.wire.packets import encode
from tests.schema.asked import plugin
from tests.transports.clients import RawClient

MARK = "zqPRIVATEqz"
PNG = b"\x89PNG" + MARK.encode() * 9
PICTURE = base64.b64encode(PNG).decode()
# a fault for every place where a request can meet one, whose text is what must not be told
FAULTY = f"""
import logging, sys, threading, warnings
from runai.cli import main
from runai.errors import ModelBroken, NotFinite
from runai.testing.scripted import Fault, ScriptedEngine

MARK = {MARK!r}

class Relapse:
    def __del__(self):
        raise KeyError(MARK)

def fail():
    raise ValueError(MARK)

class Engine(ScriptedEngine):
    def admit(self, key, request, owner=0):
        if request.id == "chained":
            try:
                fail()
            except ValueError as error:
                raise RuntimeError(f"while reading {{request.prompt}}") from error
        if request.id == "loud":
            warnings.warn(f"{{request.prompt}} is long")
            logging.getLogger("transformers.tokens").error("truncated: %s", request.prompt)
            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()
            Relapse()
        super().admit(key, request, owner)

    def step(self):
        stuck = any(d.request.id in ("twice", "left") for d in self._drawings.values())
        return [] if stuck else super().step()

    def has_room(self):
        if self._drawings and any(d.request.id == "fatal" for d in self._drawings.values()):
            raise KeyError(MARK)
        return super().has_room()

faults = {{
    "admit": Fault(KeyError(MARK)),
    "known": Fault(ModelBroken(f"No {{MARK}}.", hint=MARK, field=MARK)),
    "step": Fault(ValueError(MARK), after_steps=1, raised=True),
    "late": Fault(NotFinite(MARK), after_steps=1),
    "memory": Fault(MemoryError(MARK)),
}}
sys.exit(main(sys.argv[1:], make_engine=lambda: Engine(faults=faults)))
"""
STAGES = ("admit", "known", "step", "late", "memory", "chained")
LAST = ("completed", "failed", "canceled")


def asked(request_id: str, **fields: Any) -> dict[str, Any]:
    """A valid request, with what is private in every place for it."""
    prompts = {"prompt": f"{MARK} <lora:{MARK}:1>", "negative_prompt": MARK}
    small = {"width": 64, "height": 64, "num_inference_steps": 3}
    return {"type": "generate", "task": "txt2img", "id": request_id, **small, **prompts, **fields}


REFUSED: tuple[dict[str, Any], ...] = (
    asked("1", num_inference_steps=999),
    asked("1", width=16000, height=16000),
    asked("1", num_images=60),
    asked("1", strength=MARK),
    asked("1", sampler=MARK),
    asked("1", prompt=["a", MARK]),
    asked("1", **{MARK: 1}),
    asked("1", task=MARK),
    asked("1", task="img2img", image=MARK),
    {"type": MARK, "id": "1"},
    {"action": MARK, "options": {"txt2img_prompt": MARK}},
    plugin("txt2img", txt2img_prompt=MARK, txt2img_steps=MARK),
    {"type": "convert", "id": "1", "model": "a", "form": MARK},
)


def meet_every_fault(port: int) -> None:
    with RawClient(port) as client:
        for message in (asked("well"), asked("img", task="img2img", image=photo_text())):
            assert client.ask(message)["type"] == "completed"
        for message in REFUSED:
            client.send(message)
            refusal = client.receive()
            while (
                refusal is not None and refusal.get("type") not in LAST and "error" not in refusal
            ):
                refusal = client.receive()
        for body in (f'{{"prompt": "{MARK}"'.encode(), f"[{MARK}]".encode(), MARK.encode()):
            client.send_body(body)
            assert client.receive_type("failed")["error"]["code"] == "invalid_json"
        client.send_body(json.dumps(asked("big", prompt=MARK * 99_999)).encode())
        assert client.receive_type("failed")["error"]["code"] == "message_too_large"
        for name in STAGES:
            assert client.ask(asked(name))["type"] == "failed", name
        client.send(asked("twice"))
        assert client.ask(asked("twice"))["error"]["code"] == "duplicate_id"
        client.send({"type": "cancel", "id": "twice"})
        client.receive_type("canceled")
        assert client.ask(asked("loud"))["type"] == "completed"
    with RawClient(port) as leaving:  # in the middle of its request, and of a message
        leaving.send(asked("left"))
        leaving.receive_type("accepted")
        leaving.sock.sendall(encode(MARK.encode() * 999, 1024)[0:2048])
    with RawClient(port) as client:
        assert client.ask(asked("fatal"))["type"] == "failed"


def photo_text() -> str:
    return as_base64(photo(64, 64))


@pytest.mark.parametrize("format_", logs.FORMATS)
def test_nothing_private_is_in_the_log_whatever_happens_to_a_request(
    start: Callable[..., Any], format_: str
) -> None:
    options = ("--log-level", "debug", "--log-format", format_, "--max-message-bytes", "200000")
    child = start("-c", FAULTY, "--port", "0", "--keep-alive", *options)
    meet_every_fault(int(child.wait_for(r"port (\d+)")[1]))
    assert child.end() == 1  # by the fatal one
    assert MARK not in child.seen
    assert PICTURE[40:60] not in child.seen
    assert "engine broke" in child.seen
    # all of it was there to be told
    for what in ("Accepted", "Refused", "Failed", "Canceled", "Finished", "Thread-", "KeyError"):
        assert what in child.seen, what
    for name in ("well", "img", *STAGES, "loud", "left", "fatal"):
        assert re.search(rf"request\W+{name}\b", child.seen), name


def test_prompts_are_in_the_log_where_that_was_asked_for(start: Callable[..., Any]) -> None:
    child = start("-c", FAULTY, "--port", "0", "--log-prompts")
    with RawClient(int(child.wait_for(r"port (\d+)")[1])) as client:
        client.ask(asked("admit"))
        client.ask(asked("loud"))
    assert child.end() == 0
    assert f'prompt="{MARK} <lora:{MARK}:1>"' in child.seen
    assert re.search(rf"KeyError at runai/testing/scripted.py:\d+: '{MARK}'", child.seen)
    assert f"{MARK} <lora:{MARK}:1> is long" in child.seen
    assert PICTURE[40:60] not in child.seen


def test_a_drawing_with_the_real_engine_leaves_nothing_private_in_the_log(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = Settings(device="cpu", log_level="debug", model_base_path=(tmp_path,))
    small = {"width": 64, "height": 64, "num_inference_steps": 2}
    with embedded(settings, None) as own, RawClient(own.port) as client:
        client.sock.settimeout(120)
        client.hello(token=own.token)
        long = f"{MARK} " * 200
        assert client.ask(asked("long", prompt=long, **small))["type"] == "completed"
        for prompt in (f"<lora:{MARK}:1>", f"({MARK}:", f"[{MARK}:a:0.5"):
            message = asked("odd", prompt=prompt, prompt_dialect="webui", **small)
            assert client.ask(message)["type"] in LAST
        damaged = asked("image", prompt=MARK, task="img2img", image=PICTURE, **small)
        assert client.ask(damaged)["error"]["code"] == "invalid_image"
    said = capfd.readouterr().err
    assert MARK not in said and own.token not in said
    finished = re.search("Finished.*request=long.*", said)
    assert finished is not None
    for stage in ("queue", "load", "encode", "step", "decode", "png"):
        assert re.search(rf"\b{stage}_s=\d", finished[0]), stage


def test_json_has_an_object_a_line_with_the_time_and_the_fields_of_a_jobs_life(
    start: Callable[..., Any],
) -> None:
    child = start("-c", FAULTY, "--port", "0", "--log-format", "json")
    with RawClient(int(child.wait_for(r"port (\d+)")[1])) as client:
        client.ask(asked("a"))
        client.ask(asked("late"))
    assert child.end() == 0
    said = [json.loads(line) for line in child.seen.splitlines()]
    for line in said:
        assert datetime.fromisoformat(line["time"]).utcoffset().total_seconds() == 0  # type: ignore[union-attr]
        assert line["time"].endswith("Z")
        assert line["level"] in ("info", "warning")
    life = {line["message"]: line for line in said if line.get("request") == "a"}
    assert set(life) == {"Accepted.", "Started.", "Finished."}
    assert len({line["job"] for line in life.values()}) == 1
    accepted = {key: life["Accepted."][key] for key in ("task", "width", "steps", "pictures")}
    assert accepted == {"task": "txt2img", "width": 64, "steps": 3, "pictures": 1}
    finished = life["Finished."]
    assert finished["model"] == "shapes"
    assert (finished["load_s"], finished["encode_s"], finished["step_s"]) == (2.0, 0.25, 1.5)
    assert (finished["decode_s"], finished["png_s"]) == (0.125, 0.0625)
    assert finished["total_s"] >= finished["queue_s"] >= 0
    (failed,) = [line for line in said if line["message"] == "Failed."]
    assert (failed["code"], failed["level"], failed["step_s"]) == ("not_finite", "warning", 1.0)


def test_a_description_knows_no_prompt_and_no_picture() -> None:
    request = ImageToImage(
        id="a", image=PNG, prompt=MARK, negative_prompt=MARK, loras=[Lora(name=MARK)]
    )
    said = describe(request)
    assert MARK not in str(said)
    assert (said["loras"], said["given_bytes"], said["task"]) == (1, len(PNG), "img2img")
    assert describe(request, prompts=True)["prompt"] == MARK


def test_libraries_that_print_what_they_log_pass_it_on_instead(
    capfd: pytest.CaptureFixture[str],
) -> None:
    library = logging.getLogger("a.package")
    library.addHandler(logging.StreamHandler(sys.__stderr__))
    library.propagate = False
    logs.adopt_libraries()
    with logs.kept("info"):
        library.error("about %s", MARK)
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(r"error +a\.package: A library said something at tests/cli/test_logs", line)


def test_a_librarys_warning_is_told_by_its_place_and_kind(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with logs.kept("info"), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn(f"about {MARK}", UserWarning, stacklevel=1)
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(r"said something at tests/cli/test_logs\.py:\d+ \(UserWarning\)\.", line)
    assert MARK not in line


def test_every_stage_has_its_field() -> None:
    assert set(SECONDS) == set(MEANINGS)
    assert set(SECONDS.values()) < ALLOWED


def record_of(message: str, name: str = "runai", **more: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "name": name, "levelname": "INFO", **more})


def test_a_field_that_is_not_known_is_not_shown() -> None:
    record = record_of("Well.", fields={"job": "1", "secret": MARK})
    for formatter in (Lines, JsonLines):
        line = formatter(prompts=False, tracebacks=False).format(record)
        assert "job" in line and MARK not in line


def test_what_clients_choose_cannot_break_a_line_or_reach_the_terminal() -> None:
    nasty = 'a"\n\x1b[2J 2026 runai: \u202e'
    request = TextToImage(id=nasty, prompt="x")
    record = record_of("Accepted.", fields=describe(request))
    for formatter in (Lines, JsonLines):
        line = formatter(prompts=True, tracebacks=True).format(record)
        assert line.isprintable()
    assert json.loads(JsonLines(prompts=False, tracebacks=False).format(record))["request"] == nasty


def test_an_exception_is_shown_as_its_kind_and_place_and_where_it_came_from() -> None:
    try:
        try:
            raise KeyError(MARK)
        except KeyError as inner:
            error = OSError(MARK)
            error.add_note(MARK)
            raise error from inner
    except OSError as caught:
        record = record_of("Bad.", exc_info=(OSError, caught, caught.__traceback__))
    short = Lines(prompts=False, tracebacks=False).format(record)
    assert re.search(r"Bad\. OSError at tests/cli/test_logs\.py:\d+$", short)
    no_space = OSError(errno.ENOSPC, MARK)
    record_of_it = record_of("Bad.", exc_info=(OSError, no_space, None))
    assert Lines(prompts=False, tracebacks=False).format(record_of_it).endswith("OSError [ENOSPC]")
    full = Lines(prompts=False, tracebacks=True).format(record)
    assert MARK not in full
    assert "raise KeyError(MARK)" in full  # the code, not the value
    assert MARK in Lines(prompts=True, tracebacks=False).format(record)
