"""The server's program is found, started, started again, and never ended from here."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runai_krita.starting import AGAIN_S, Starter, environment_for_others, words_of

PATIENCE_MS = 20_000


def program(folder: Path, script: str) -> Path:
    path = folder / "runai"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def starter() -> Iterator[Callable[..., Starter]]:
    made: list[Starter] = []

    def make(command: object, clock: Clock | None = None) -> Starter:
        made.append(Starter(str(command), "localhost", 50006, clock or Clock()))
        return made[-1]

    yield make
    for started in made:
        started.close()


def wait_for_end(pid: int) -> None:
    """The program has ended, and is still to be asked how."""
    ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    assert poll.poll(PATIENCE_MS)
    os.close(ended)


def test_a_program_is_found_by_name_path_or_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(program(tmp_path, "exit 0"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert words_of("runai") == [path]
    assert words_of(str(tmp_path)) == [path]
    assert words_of(f"{path} --device 'cuda 1'") == [path, "--device", "cuda 1"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert words_of("~/runai") == [path]
    assert words_of("~") == [path]


@pytest.mark.parametrize("command", ["", "no-such-program", "/no/such/folder"])
def test_what_is_not_there_is_not_found(command: str) -> None:
    assert words_of(command) == []


def test_it_is_told_where_to_listen_and_to_give_up(tmp_path: Path, starter: Any) -> None:
    said = tmp_path / "said"
    started = starter(f"{program(tmp_path, f'echo $* >{said}')} --device cpu")
    assert started() == (True, "The server is starting.")
    wait_for_end(started.pid or 0)
    assert said.read_text() == "--device cpu --timeout --host localhost --port 50006\n"


def test_one_that_still_runs_is_not_started_again(tmp_path: Path, starter: Any) -> None:
    fifo, clock = tmp_path / "fifo", Clock()
    os.mkfifo(fifo)
    started = starter(program(tmp_path, f"read line <{fifo}"), clock)
    started()
    pid = started.pid
    clock.now += 10 * AGAIN_S
    assert started().running
    assert started.pid == pid
    fifo.write_text("\n")
    wait_for_end(pid or 0)


def test_one_that_has_ended_is_started_again_but_not_at_once(tmp_path: Path, starter: Any) -> None:
    clock = Clock()
    started = starter(program(tmp_path, "echo A reason. >&2; exit 3"), clock)
    started()
    first = started.pid
    wait_for_end(first or 0)
    assert started() == (False, "The server has ended (code 3). A reason.")
    clock.now += AGAIN_S
    assert started().running
    assert started.pid != first
    wait_for_end(started.pid or 0)


@pytest.mark.parametrize(
    ("command", "words"),
    [("no-such-program", "no program 'no-such-program'"), ("'half a quote", "is wrong")],
)
def test_what_cannot_be_started_is_said(command: str, words: str, starter: Any) -> None:
    revived = starter(command)()
    assert not revived.running and words in revived.words


def test_a_file_that_is_no_program_is_said(tmp_path: Path, starter: Any) -> None:
    path = program(tmp_path, "")
    path.write_bytes(b"\x7fELF is not enough")
    revived = starter(path)()
    assert not revived.running and "cannot be started" in revived.words


def test_kritas_own_libraries_are_not_the_servers() -> None:
    environ = {"PATH": "/bin", "PYTHONHOME": "/krita", "LD_LIBRARY_PATH": "/krita", "HOME": "/h"}
    assert environment_for_others(environ) == {"PATH": "/bin", "HOME": "/h"}


def test_the_program_does_not_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starter: Any
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/krita")
    said = tmp_path / "said"
    started = starter(program(tmp_path, f"echo home: $PYTHONHOME >{said}"))
    started()
    wait_for_end(started.pid or 0)
    assert said.read_text() == "home:\n"
