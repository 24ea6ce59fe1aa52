"""stdin, stdout and stderr that are closed, broken or full."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import children
import pytest

from tests.faults.servers import Apart, free_port
from tests.faults.watching import Table

SERVE = """
import sys
from runai.cli import main
from runai.errors import DeviceLost
from runai.testing.scripted import Fault, ScriptedEngine
faults = {"unknown": Fault(KeyError("bug")), "lost": Fault(DeviceLost("The device is gone."))}
sys.exit(main(make_engine=lambda: ScriptedEngine(faults=faults)))
"""
LOG_WAITS = importlib.util.find_spec("runai.cli.log_output") is None
needs_log = pytest.mark.skipif(LOG_WAITS, reason="here the log waits for its reader")
Start = Callable[..., Apart]


@pytest.fixture
def start(stack: ExitStack) -> Start:
    """A server that is started by a shell with these redirections."""

    def begin(redirections: str, **more: Any) -> Apart:
        port = free_port()
        python = [sys.executable, "-c", SERVE, "--port", str(port), "--keep-alive"]
        shell = ["sh", "-c", f'exec "$@" {redirections}', "sh"]
        child = children.Child([*shell, *python], **more)
        stack.callback(child.close)
        return Apart(child, port)

    return begin


def test_a_server_without_stdin_stdout_and_stderr(start: Start, table: Table) -> None:
    server = start("<&- >&- 2>&-")
    with table.survived("stdin, stdout and stderr closed", server) as watch:
        assert watch.ask()["type"] == "completed"
        assert watch.ask("unknown")["error"]["code"] == "internal"
    with table.ended("a lost device, stderr closed", server, code=4) as watch:
        assert watch.ask("lost")["error"]["code"] == "device_lost"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def fill(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe[1], bytes(4096))
    os.set_blocking(pipe[1], True)


@needs_log
def test_a_server_whose_stderr_nobody_has_open_any_more(
    start: Start, table: Table, pipe: tuple[int, int]
) -> None:
    server = start("", stderr=pipe[1])
    os.close(pipe[0])
    with table.survived("stderr broken", server) as watch:
        assert watch.ask("unknown")["error"]["code"] == "internal"
    with table.ended("a lost device, stderr broken", server, code=4) as watch:
        assert watch.ask("lost")["error"]["code"] == "device_lost"


@needs_log
def test_a_server_whose_stderr_nobody_reads(
    start: Start, table: Table, pipe: tuple[int, int]
) -> None:
    fill(pipe)
    server = start("", stderr=pipe[1])
    with table.survived("stderr a full pipe", server) as watch:
        assert watch.ask("unknown")["error"]["code"] == "internal"
    with table.ended("a lost device, stderr a full pipe", server, code=4) as watch:
        assert watch.ask("lost")["error"]["code"] == "device_lost"


@pytest.mark.parametrize("what", ["broken", "full"])
def test_an_error_before_there_is_a_log_waits_for_nobody(
    what: str, pipe: tuple[int, int], stack: ExitStack
) -> None:
    if what == "broken":
        os.close(pipe[0])
    else:
        fill(pipe)
    server = children.python("-m", "runai", "paint", stderr=pipe[1])
    stack.callback(server.close)
    assert server.end() == 2
