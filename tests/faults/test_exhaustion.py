"""No file descriptor, and no thread, is left for one more client."""

from __future__ import annotations

import os
import re
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from runai.testing.scripted import ScriptedEngine
from runai.transports.socket_server import SocketOptions
from tests.faults.servers import Apart, Held, Here
from tests.faults.watching import Table, _until
from tests.transports.clients import RawClient

PIDS = Path("/sys/fs/cgroup/pids")
SCRIPTED = """
import resource, sys
from runai.cli import main
from runai.testing.scripted import ScriptedEngine
if len(sys.argv) > 1 and sys.argv[1].isdigit():
    most = int(sys.argv.pop(1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
sys.exit(main(make_engine=ScriptedEngine))
"""
ROOMY = ("--max-client-connections", "200", "--max-connections-per-peer", "200")
SERVE = ("--port", "0", "--keep-alive", *ROOMY)


def test_without_descriptors_newcomers_wait_and_those_inside_go_on(
    child: Callable[..., Apart], table: Table, stack: ExitStack
) -> None:
    server = child("40", *SERVE, script=SCRIPTED)
    with table.survived("no file descriptors left (RLIMIT_NOFILE)", server) as watch:
        inside = watch.client()
        waiting = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(40)
        ]
        _until(lambda: len(Held.of(server.pid).descriptors) >= 39)  # one comes and goes
        inside.request("inside", **server.good)
        assert inside.end_of("inside")["type"] == "completed"
        assert select.select(waiting[-1:], [], [], 0) == ([], [], []), "it was greeted"
        last = RawClient(server.port, connected=waiting.pop())
        for sock in waiting:
            sock.close()
        assert last.hello()["type"] == "hello"  # it had only waited
        last.close()
        watch.saw("newcomers wait")


@pytest.fixture
def few_threads() -> Iterator[Callable[[int, int | None], None]]:
    """`few_threads(pid, more)`: the process may have so many threads more than now; None: any."""
    if not os.access(PIDS, os.W_OK):
        pytest.skip("needs root and the cgroup controller of process numbers")
    group = PIDS / f"runai-{os.getpid()}"
    group.mkdir()

    def limit(pid: int, more: int | None) -> None:
        (group / "cgroup.procs").write_text(str(pid))
        now = int((group / "pids.current").read_text())
        (group / "pids.max").write_text("max" if more is None else str(now + more))

    yield limit
    for pid in (group / "cgroup.procs").read_text().split():
        (PIDS / "cgroup.procs").write_text(pid)
    group.rmdir()


@pytest.mark.parametrize("more", [0, 1])
def test_without_threads_newcomers_are_refused_and_those_inside_go_on(
    child: Callable[..., Apart],
    table: Table,
    few_threads: Callable[[int, int | None], None],
    more: int,
) -> None:
    """A connection takes two threads: there is none, or only the first one."""
    server = child(*SERVE, script=SCRIPTED)
    with table.survived(f"no threads left but {more} (pids.max)", server) as watch:
        inside = watch.client()
        few_threads(server.pid, more)
        for _ in range(3):
            with RawClient(server.port) as newcomer:
                refused = newcomer.receive_type("failed", "hello")
                assert refused["error"]["code"] == "too_many_connections"
                assert "thread" in refused["error"]["message"]
                assert newcomer.receive() is None
        inside.request("inside", **server.good)
        assert inside.end_of("inside")["type"] == "completed"
        few_threads(server.pid, None)
        watch.saw("too_many_connections")


@pytest.mark.parametrize("refused", ["reader", "writer"])
def test_a_thread_that_cannot_be_started_leaves_nothing_behind(
    scripted: Callable[..., Here], table: Table, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """The same where there are no control groups: the threads are refused by name."""
    start = threading.Thread.start

    def start_others(thread: threading.Thread) -> None:
        if re.fullmatch(rf"runai-client-\d+-{refused}", thread.name):
            raise RuntimeError("can't start new thread")
        start(thread)

    server = scripted(ScriptedEngine())
    with table.survived(f"a connection's {refused} cannot be started", server) as watch:
        inside = watch.client()
        with monkeypatch.context() as within:
            within.setattr(threading.Thread, "start", start_others)
            for _ in range(3):
                with RawClient(server.port) as newcomer:
                    refusal = newcomer.receive_type("failed", "hello")
                    assert refusal["error"]["code"] == "too_many_connections"
            inside.request("inside", **server.good)
            assert inside.end_of("inside")["type"] == "completed"
        watch.saw("too_many_connections")


def test_without_even_a_thread_to_refuse_on_a_newcomer_is_told_why_and_closed(
    scripted: Callable[..., Here], table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def start_others(thread: threading.Thread) -> None:
        if thread.name.endswith("-reader"):
            raise RuntimeError("can't start new thread")
        start(thread)

    options = SocketOptions(keep_alive=True, max_connections=3)
    server = scripted(ScriptedEngine(), options=options)
    with table.survived("no thread to refuse a client on", server) as watch:
        one, other = watch.client(), watch.client()  # and the table looks on
        with monkeypatch.context() as within:
            within.setattr(threading.Thread, "start", start_others)
            with RawClient(server.port) as newcomer:
                refused = newcomer.receive_type("failed")
                assert refused["error"]["code"] == "too_many_connections"
                assert newcomer.receive() is None
        watch.saw("too_many_connections")
        for client in (one, other):
            client.close()
        _until(lambda: _is_seated(server.port))  # there are seats again


def _is_seated(port: int) -> bool:
    """Whether one more client gets a seat; it has left again then."""
    with RawClient(port) as newcomer:
        greeting = newcomer.receive()
    return greeting is not None and "versions" in greeting
