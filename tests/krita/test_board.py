"""What the dock shows follows from what was heard."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from runai_krita.board import Board, Finished, Picture, Trouble

HELLO = {
    "type": "hello",
    "capabilities": {
        "max_pixels": 9,
        "max_steps": 8,
        "max_images": 6,
        "tasks": [],
    },
}
MODELS = {
    "type": "models",
    "models": [{"name": "v1/a", "kind": "model"}, {"name": "lora/b", "kind": "lora"}],
}
PNG = base64.b64encode(b"png").decode()


def board_of(*messages: dict[str, Any], jobs: tuple[str, ...] = ("a",)) -> Board:
    board = Board()
    for request_id in jobs:
        board.add(request_id)
    for message in messages:
        board.hear(message)
    return board


def loading(of: str = "a") -> dict[str, Any]:
    return {"type": "loading", "id": of, "model": "v1/a"}


def progress(of: str = "a", step: int = 1) -> dict[str, Any]:
    return {"type": "progress", "id": of, "step": step, "total": 4, "seconds_left": 2.0}


def completed(of: str = "a", **more: Any) -> dict[str, Any]:
    return {"type": "completed", "id": of, "images": [{"png": PNG, "seed": 5}], **more}


GONE = {"type": "gone", "message": "There is no server.", "starting": False}

STATES: dict[str, tuple[list[dict[str, Any]], tuple[str, str]]] = {
    "at first": ([], ("gone", "Not connected.")),
    "connected": ([{"type": "connected"}], ("starting", "Connected. The server is getting ready.")),
    "with models": ([HELLO, MODELS], ("ready", "Ready.")),
    "loading": ([HELLO, MODELS, loading()], ("loading", "Loading v1/a.")),
    "drawing": ([HELLO, MODELS, loading(), progress()], ("ready", "Ready.")),
    "loading and canceled": (
        [HELLO, MODELS, loading(), {"type": "canceled", "id": "a"}],
        ("ready", "Ready."),
    ),
    "gone": ([HELLO, MODELS, GONE], ("gone", "There is no server.")),
    "starting": ([{**GONE, "starting": True}], ("starting", "There is no server.")),
}


@pytest.mark.parametrize("case", STATES)
def test_the_servers_state(case: str) -> None:
    messages, state = STATES[case]
    board = board_of(*messages)
    assert (board.state, board.says) == state


def test_limits_and_models_are_those_of_the_server_that_is_there() -> None:
    board = board_of(HELLO, MODELS)
    assert board.limits == (9, 8)
    assert board.models == ["v1/a"], "LoRAs are none"
    board.hear(GONE)
    assert (board.limits, board.models) == (None, [])


def test_a_request_waits_loads_and_is_drawn() -> None:
    board = board_of({"type": "accepted", "id": "a", "position": 2})
    job = board.current()
    assert job is not None and job.doing == "Waiting for 2 before it"
    board.hear(loading())
    assert (job.doing, job.total) == ("Loading v1/a", 0)
    board.hear(progress(step=3))
    assert (job.step, job.total, job.seconds_left) == (3, 4, 2.0)


def test_the_request_that_is_drawn_is_shown_before_those_that_wait() -> None:
    board = board_of(progress("b"), jobs=("a", "b"))
    assert board.current() is board.jobs["b"]
    board.hear(completed("b"))
    assert board.current() is board.jobs["a"]
    board.hear(completed("a"))
    assert board.current() is None


def test_what_is_completed_gives_its_pictures_once() -> None:
    board = board_of()
    assert board.hear(completed(notes=["No watermark."])) == Finished("a", [Picture(b"png", 5)])
    assert (board.preview, board.last_seed, board.notes) == (b"png", 5, ["No watermark."])
    assert board.jobs == {}


def test_a_failure_is_shown_until_something_else_is_asked_for() -> None:
    error = {"code": "x", "message": "No.", "hint": "Do this."}
    board = board_of({"type": "failed", "id": "a", "error": error})
    assert board.trouble == Trouble("No.", "Do this.")
    assert board.jobs == {}
    board.add("b")
    assert board.trouble is None


def test_notes_are_shown_until_they_are_put_away() -> None:
    board = board_of(completed(notes=["No watermark."]))
    assert board.notes == ["No watermark."]
    board.forgive()
    assert board.notes == []


def test_a_preview_goes_when_the_request_was_canceled() -> None:
    board = board_of({"type": "preview", "id": "a", "index": 0, "step": 1, "png": PNG})
    assert board.preview == b"png"
    assert board.hear({"type": "canceled", "id": "a"}) == Finished("a", [])
    assert board.preview is None


@pytest.mark.parametrize("kind", ["accepted", "loading", "progress", "preview"])
def test_what_comes_late_changes_nothing(kind: str) -> None:
    board = board_of(jobs=())
    late = {"step": 1, "total": 2, "model": "m", "png": PNG, "position": 0}
    board.hear({"type": kind, "id": "gone", **late})
    assert (board.jobs, board.preview, board.state) == ({}, None, "gone")


@pytest.mark.parametrize("message", [{}, {"versions": {}}, {"type": "weather"}, {"type": ["x"]}])
def test_kinds_that_are_not_known_change_nothing(message: Any) -> None:
    board = board_of()
    assert board.hear(message) is None
    assert board.trouble is None


@pytest.mark.parametrize("message", [{"type": "completed", "id": "a"}, completed(images=[{}])])
def test_an_answer_that_is_not_understood_ends_its_request_and_is_said(message: Any) -> None:
    board = board_of()
    assert board.hear(message) == Finished("a", [])
    assert board.trouble is not None and "not understood" in board.trouble.message
    assert board.jobs == {}


def test_a_hello_that_is_not_understood_is_said() -> None:
    board = board_of({"type": "hello"})
    assert board.trouble is not None
    assert list(board.jobs) == ["a"]
