"""Nobody waits for the log, whoever reads it or does not."""

from __future__ import annotations

import logging
import os
import re
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest

from runai.cli import log_output, logs
from runai.cli.last_word import last_word
from runai.cli.log_output import MOST_BYTES, Output

PATIENCE_S = 20.0
LINE = "x" * 99 + "\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:  # the test did
            continue


def within(call: object) -> None:
    """Fails where `call` has not returned in time."""
    thread = threading.Thread(target=call, daemon=True)  # type: ignore[arg-type]
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "it waits"


def test_lines_arrive_whole_and_in_order(pipe: tuple[int, int]) -> None:
    output = Output(pipe[1])
    for number in range(9):
        output.write(f"{number}\n")
        output.flush()
    assert os.read(pipe[0], 100) == b"".join(b"%d\n" % number for number in range(9))


def test_a_pipe_that_nobody_reads_holds_up_nobody_and_lost_lines_are_counted(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_output, "PATIENCE_S", 0.01)
    output = Output(pipe[1])
    many = 2 * MOST_BYTES // len(LINE)

    def write() -> None:
        for _ in range(many):
            output.write(LINE)
            output.flush()
        output.close()

    within(write)
    os.set_blocking(pipe[0], False)
    arrived = os.read(pipe[0], 10 * MOST_BYTES)
    assert output.lost > 0
    assert len(arrived) // len(LINE) + MOST_BYTES // len(LINE) + output.lost == pytest.approx(
        many, abs=2
    )


@pytest.fixture
def full_terminal() -> Iterator[tuple[int, TextIO]]:
    """A terminal that nobody reads, and the end where one could."""
    reader, terminal = os.openpty()
    os.set_blocking(terminal, False)
    with suppress(BlockingIOError):
        while True:
            os.write(terminal, b"x" * 99)
    os.set_blocking(terminal, True)
    with open(terminal, "w") as stderr:  # noqa: PTH123 (no path)
        yield reader, stderr
        os.close(reader)  # or closing the other end would wait, too


def make_some_room(reader: int, terminal: TextIO) -> None:
    """So that the terminal says that it takes more, though not how little."""
    while not select.select([], [terminal], [], 0)[1]:
        os.read(reader, 1)


def test_a_terminal_that_is_held_holds_up_nobody(
    full_terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_output, "PATIENCE_S", 0.01)
    monkeypatch.setattr(sys, "__stderr__", full_terminal[1])

    def write() -> None:
        output = Output.of_process()
        for _ in range(3):
            make_some_room(*full_terminal)
            output.write(LINE * 99)
            output.flush()
        output.close()

    within(write)


def test_the_last_word_does_not_wait_for_a_terminal_that_is_held(
    full_terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", full_terminal[1])
    make_some_room(*full_terminal)
    within(lambda: last_word(LINE * 99))


def test_a_terminal_shows_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, terminal = os.openpty()
    with open(terminal, "w") as stderr:  # noqa: PTH123 (no path)
        monkeypatch.setattr(sys, "stderr", stderr)
        last_word("runai: no.")
        assert os.read(reader, 99) == b"runai: no.\r\n"
        monkeypatch.undo()
    os.close(reader)


def test_what_waits_is_written_once_somebody_reads(pipe: tuple[int, int]) -> None:
    output = Output(pipe[1])
    sent = MOST_BYTES // len(LINE)
    for _ in range(sent):
        output.write(LINE)
        output.flush()
    got = b""
    while len(got) < sent * len(LINE):
        got += os.read(pipe[0], MOST_BYTES)
        output.flush()
    assert got == LINE.encode() * sent
    assert output.lost == 0


def test_a_reader_that_is_gone_costs_the_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    output = Output(pipe[1])
    os.close(pipe[0])
    output.write(LINE)
    output.flush()
    assert output.lost == 1


def test_the_reader_is_told_how_much_was_lost(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_output, "MOST_BYTES", 100)
    monkeypatch.setattr(Output, "of_process", lambda: Output(pipe[1]))
    log = logging.getLogger("runai.test")
    with logs.kept("info"):
        for _ in range(3):
            log.info("%s", "y" * 200)  # more than may wait
        log.info("short")
    said = os.read(pipe[0], 10_000).decode()
    told = re.findall(r"warning runai: Lines that were lost.*: (\d+)\.$", said, re.MULTILINE)
    assert sum(map(int, told)) == 3
    assert said.splitlines()[-1].endswith("short")


def test_a_record_that_cannot_be_formatted_is_not_printed_past_the_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with logs.kept("info"):
        # to this handler alone: pytest's own would raise
        output = logging.getLogger().handlers[-1]
        output.handle(logging.makeLogRecord({"name": "runai", "msg": "%d", "args": ("private",)}))
        output.handle(logging.makeLogRecord({"name": "runai", "msg": "next"}))
    said = capfd.readouterr().err
    assert "private" not in said and "Traceback" not in said
    assert "Lines that were lost" in said and said.endswith("runai: next\n")


def test_the_log_is_let_go_of_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.level, root.handlers[:], threading.excepthook, sys.unraisablehook)
    with logs.kept("debug"):
        logging.getLogger("runai.test").debug("there")
    assert (root.level, root.handlers[:], threading.excepthook, sys.unraisablehook) == before
    assert "there" in capfd.readouterr().err


SERVE = """
import sys
from runai.cli import main
from runai.testing.scripted import ScriptedEngine
sys.exit(main(["--port", "0", "--timeout", "--log-format", "json"], make_engine=ScriptedEngine))
"""
QUICK = "from runai.settings import table; table.ATTEMPT_S = 0.01\n"


@pytest.mark.parametrize("closed", [True, False])
def test_a_server_without_a_stderr_that_works_ends_as_ever(closed: bool, tmp_path: Path) -> None:
    """Closed from the start; or a full pipe."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 65536)
    except BlockingIOError:
        os.set_blocking(write, True)
    words = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, QUICK + SERVE]
    command = words if closed else [sys.executable, "-c", QUICK + SERVE]
    try:
        done = subprocess.run(command, stderr=write, timeout=PATIENCE_S, check=False)
    finally:
        os.close(read)
        os.close(write)
    assert done.returncode == 3


def test_a_stderr_that_was_never_there_or_is_closed_since_costs_the_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Path(os.devnull).open("w") as closed:
        pass
    for stream in (closed, None):
        monkeypatch.setattr(sys, "__stderr__", stream)
        output = Output.of_process()
        output.write(LINE)
        output.flush()
        output.close()
        assert output.lost == 1
