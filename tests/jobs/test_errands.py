"""Conversions for clients: a child process each, one at a time, each answered once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from queue import Queue

import pytest

from runai.errors import ModelNotFound, NotOffered, QueueFull, RunAIError, ServerStopping
from runai.jobs.errands import Errands
from runai.schema.events import Converted, Event, Failed
from runai.schema.requests import Convert
from tests.jobs.asking import PATIENCE_S

ASKED = Convert(id="c1", model="v1/a", form="safetensors")


class Made:
    """Errands whose command is a line of Python, and what they answered."""

    def __init__(self, script: str | None) -> None:
        self.answers: Queue[Event] = Queue()
        words = None if script is None else (lambda asked: [sys.executable, "-c", script])
        self.errands = Errands(words)

    def start(self) -> None:
        self.errands.start(ASKED, self.answers.put)

    def answer(self) -> Event:
        return self.answers.get(timeout=PATIENCE_S)


@pytest.fixture
def made() -> Iterator[Callable[[str | None], Made]]:
    before = set(threading.enumerate())
    all_made: list[Made] = []

    def make(script: str | None) -> Made:
        all_made.append(Made(script))
        return all_made[-1]

    yield make
    for one in all_made:
        one.errands.stop()
    assert set(threading.enumerate()) == before


def test_what_the_child_has_written_is_told(made: Callable[..., Made]) -> None:
    done = made("print('/models/v1/a.safetensors')")
    done.start()
    assert done.answer() == Converted(id="c1", path="/models/v1/a.safetensors")


def test_the_childs_error_is_the_answer(made: Callable[..., Made]) -> None:
    script = "import sys; print('runai: It is damaged. Fetch it. [model_broken]', file=sys.stderr)"
    failing = made(f"{script}; sys.exit(1)")
    failing.start()
    failed = failing.answer()
    assert isinstance(failed, Failed) and failed.id == "c1"
    assert (failed.error.code, failed.error.message) == ("model_broken", "It is damaged. Fetch it.")


def test_a_child_that_breaks_is_our_fault(made: Callable[..., Made]) -> None:
    breaking = made("raise ValueError('no')")
    breaking.start()
    failed = breaking.answer()
    assert isinstance(failed, Failed) and failed.error.code == RunAIError.code
    assert failed.error.message == "The conversion failed: ValueError: no."


def test_a_child_that_cannot_be_started_is_an_answer_too() -> None:
    answers: Queue[Event] = Queue()
    errands = Errands(lambda asked: ["/nowhere/runai"])
    for _ in range(2):  # and the next one may be tried
        errands.start(ASKED, answers.put)
        failed = answers.get(timeout=PATIENCE_S)
        assert isinstance(failed, Failed) and "No such file" in failed.error.message
        assert "runai models convert" in failed.error.hint
    errands.stop()


def test_a_name_that_no_file_can_have_is_not_found(made: Callable[..., Made]) -> None:
    done = made("print('a')")
    asked = ASKED.model_copy(update={"model": "v1/a\0"})
    with pytest.raises(ModelNotFound) as caught:
        done.errands.start(asked, done.answers.put)
    assert caught.value.field == "model"
    done.start()
    assert isinstance(done.answer(), Converted), "and the next one may be asked for"


def test_what_the_child_says_need_not_be_text(made: Callable[..., Made]) -> None:
    done = made("import sys; sys.stdout.buffer.write(b'/models/\\xff.ckpt'); sys.stdout.flush()")
    done.start()
    assert done.answer() == Converted(id="c1", path="/models/\ufffd.ckpt")


def test_one_at_a_time(made: Callable[..., Made]) -> None:
    waiting = made("import time; time.sleep(60)")
    waiting.start()
    with pytest.raises(QueueFull):
        waiting.start()


def test_another_one_may_follow(made: Callable[..., Made]) -> None:
    done = made("print('a')")
    for _ in range(2):
        done.start()
        assert isinstance(done.answer(), Converted)
    assert done.answers.empty()


def test_stopping_interrupts_and_answers(made: Callable[..., Made]) -> None:
    waiting = made("import time; time.sleep(60)")
    waiting.start()
    waiting.errands.stop()
    failed = waiting.answer()
    assert isinstance(failed, Failed) and failed.error.code == ServerStopping.code
    with pytest.raises(ServerStopping):
        waiting.start()


def test_where_it_is_not_allowed_the_way_to_it_is_named(made: Callable[..., Made]) -> None:
    with pytest.raises(NotOffered) as caught:
        made(None).start()
    assert "--allow-convert" in caught.value.hint and "runai models convert" in caught.value.hint


def test_the_child_does_not_know_the_token(
    made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_TOKEN", "correct horse battery staple")
    done = made("import os; print(os.environ.get('RUNAI_TOKEN'))")
    done.start()
    assert done.answer() == Converted(id="c1", path="None")
