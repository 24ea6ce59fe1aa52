"""The checks after a fault notice what they are there to notice."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runai.errors import NotFinite
from runai.testing.scripted import Fault, ScriptedEngine
from tests.faults.servers import Apart, Drawing, Here
from tests.faults.watching import Table

SCRIPTED = """
import sys
from runai.cli import main
from runai.testing.scripted import ScriptedEngine
sys.exit(main(make_engine=ScriptedEngine))
"""


def test_a_fault_is_a_row_of_the_table(scripted: Callable[..., Here], tmp_path: Path) -> None:
    engine = ScriptedEngine(faults={"faulty": Fault(NotFinite("NaN."))})
    table = Table()
    with table.survived("NaN", scripted(engine)) as watch:
        assert watch.ask()["type"] == "failed"
        assert watch.ask("other")["type"] == "completed"
    table.write(tmp_path / "table.md")
    last = (tmp_path / "table.md").read_text().splitlines()[-1]
    assert last.startswith("| NaN | yes | not_finite, completed | 0.")


@pytest.mark.parametrize("left", ["a thread", "/dev/null", "MiB"])
def test_what_a_fault_leaves_behind_is_noticed(
    scripted: Callable[..., Here], monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    monkeypatch.setattr("tests.faults.watching.SETTLED_WITHIN_S", 0.1)  # nothing will go
    server, table = scripted(ScriptedEngine()), Table()
    go = threading.Event()
    thread = threading.Thread(target=go.wait, name="a thread")
    opened: list[int] = []
    held: list[mmap.mmap] = []
    with (
        pytest.raises(AssertionError, match=f"left behind: .*{left}"),
        table.survived("a leak", server) as watch,
    ):
        watch.ask()
        if left == "a thread":
            thread.start()
        elif left == "/dev/null":
            opened.append(os.open("/dev/null", os.O_RDONLY))
        else:
            # mapped anew: what the process has freed before would be taken up again
            held.append(mmap.mmap(-1, 192 * 2**20))
            for page in range(0, len(held[0]), mmap.PAGESIZE):
                held[0][page] = 1
    go.set()
    if opened:
        os.close(opened[0])
    assert table.rows[-1].survived == "NO: AssertionError"


def test_a_request_with_two_last_answers_is_noticed(scripted: Callable[..., Here]) -> None:
    with (
        pytest.raises(AssertionError, match="last answers"),
        Table().survived("an echo", scripted(ScriptedEngine())) as watch,
    ):
        watch.ask()
        watch.clients[0].last["faulty"] *= 2


def test_a_server_that_does_not_draw_afterwards_is_noticed(scripted: Callable[..., Here]) -> None:
    engine = ScriptedEngine()
    with (
        pytest.raises(AssertionError, match="not_finite"),
        Table().survived("a fault", scripted(engine)) as watch,
    ):
        watch.ask()
        engine.faults = {"good": Fault(NotFinite("NaN."))}


def test_a_child_is_watched_as_a_server_of_this_process_is(
    child: Callable[..., Apart], table: Table
) -> None:
    server = child("--port", "0", "--keep-alive", script=SCRIPTED)
    with table.survived("none, a child process", server) as watch:
        assert watch.ask()["type"] == "completed"
    with table.ended("SIGTERM while nothing is drawn", server, code=0) as watch:
        watch.ask()
        server.child.process.terminate()


def test_a_server_with_tiny_models_is_watched_likewise(
    drawing: Callable[..., Drawing], table: Table
) -> None:
    with table.survived("none, a tiny model", drawing()) as watch:
        assert watch.ask()["type"] == "completed"
