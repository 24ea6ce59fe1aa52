"""SIGTERM in every state of a server: all who were accepted are answered, the exit code says it.

What is not here: while the engine is imported, and while a picture is drawn (tests/cli).
"""

from __future__ import annotations

import base64
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import children
import pytest

from runai.cli.serving import Ending
from runai.testing.scripted import ScriptedEngine
from runai.transports.socket_server import StopReason
from tests.faults.servers import Apart, Here, free_port
from tests.faults.watching import Table, Watch, Witness

Child = Callable[..., Apart]
LARGE = base64.b64encode(bytes(2048 * 2048)).decode()  # of the engine below
# the gates named in the first word are shut; a line on stdin opens the one that it names
GATED = """
import sys, threading
from runai.cli import main
from runai.testing.scripted import ScriptedEngine
engine = ScriptedEngine(draw=lambda request, width, height, seed: bytes(width * height))
gates = {"loading": engine.loading_gate, "drawing": engine.gate}
for name in sys.argv.pop(1).split():
    gates[name].close()
def listen():
    for line in sys.stdin:
        gates[line.strip()].open()
thread = threading.Thread(target=listen)
thread.start()
sys.exit(main(make_engine=lambda: engine))
"""
# listens, and stops before what serving needs is imported
BEFORE_SERVING = """
import importlib.abc, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "runai.cli.serving":
            print("port", sys.argv[sys.argv.index("--port") + 1], file=sys.stderr, flush=True)
            sys.stdin.readline()
sys.meta_path.insert(0, Watch())
from runai.cli import main
sys.exit(main())
"""


def tell(server: Apart, line: str) -> None:
    stdin = server.child.process.stdin
    assert stdin is not None
    with suppress(BrokenPipeError):
        stdin.write(f"{line}\n")
        stdin.flush()


def stop(server: Apart) -> None:
    server.child.signal(signal.SIGTERM)
    server.child.wait_for("Stopping")


def asking(watch: Watch, request_id: str, until: str, **fields: object) -> Witness:
    client = watch.client()
    client.request(request_id, **fields)
    client.receive_type(until)
    return client


@pytest.fixture
def gated(child: Child) -> Callable[..., Apart]:
    """`gated("loading drawing", grace_s)`: a child with these gates shut."""

    def start(shut: str, grace_s: float) -> Apart:
        return child(shut, "--port", "0", "--grace-s", str(grace_s), script=GATED)

    return start


def test_before_it_serves(child: Child, table: Table) -> None:
    port = free_port()
    server = child("--port", str(port), script=BEFORE_SERVING)
    with (
        table.ended("SIGTERM while it is imported", server, code=-signal.SIGTERM) as watch,
        socket.create_connection(("127.0.0.1", port), children.PATIENCE_S) as early,
    ):
        server.child.signal(signal.SIGTERM)
        with suppress(ConnectionResetError):
            assert early.recv(1) == b""
        watch.saw("the connection's end")


def test_while_a_model_is_loaded_that_is_soon_there(
    gated: Callable[..., Apart], table: Table
) -> None:
    server = gated("loading", 60)
    with table.ended("SIGTERM while a model is loaded", server, code=0) as watch:
        client = asking(watch, "a", "loading")
        stop(server)
        tell(server, "loading")
        assert client.end_of("a")["type"] == "completed"


def test_while_a_model_is_loaded_that_is_not(gated: Callable[..., Apart], table: Table) -> None:
    server = gated("loading", 0)
    with table.ended("SIGTERM while a model is loaded, no grace", server, code=143) as watch:
        client = asking(watch, "a", "loading")
        stop(server)
        assert client.end_of("a")["type"] == "canceled"
        tell(server, "loading")  # no thread is killed: it is waited for


def test_while_others_wait(gated: Callable[..., Apart], table: Table) -> None:
    server = gated("loading", 60)
    with table.ended("SIGTERM while requests wait", server, code=143) as watch:
        first = asking(watch, "first", "loading")
        waiting = [asking(watch, f"waiting {n}", "accepted") for n in range(5)]
        stop(server)
        for number, client in enumerate(waiting):
            assert client.end_of(f"waiting {number}")["type"] == "canceled"
        late = watch.client()
        late.request("late")
        refused = late.receive_type("failed")
        assert refused["error"]["code"] == "server_stopping"
        tell(server, "loading")
        assert first.end_of("first")["type"] == "completed"


def test_while_an_answer_is_written_to_somebody_who_is_slow(
    gated: Callable[..., Apart], table: Table
) -> None:
    server = gated("", 60)
    large = {"width": 2048, "height": 2048, "num_images": 4, "num_inference_steps": 1}
    with table.ended("SIGTERM while an answer is written", server, code=0) as watch:
        slow = asking(watch, "slow", "loading", **large)
        looking_on = watch.client()
        while _status(looking_on)["running"]:
            pass
        stop(server)
        looking_on.read_to_the_end()
        end = slow.end_of("slow")
        assert [image["png"] for image in end["images"]] == [LARGE] * 4


def _status(client: Witness) -> dict[str, int]:
    client.send({"type": "status"})
    return client.receive_type("status")


def test_while_it_is_stopping(gated: Callable[..., Apart], table: Table) -> None:
    server = gated("drawing", 60)
    with table.ended("SIGTERM, five times", server, code=143) as watch:
        client = asking(watch, "a", "loading")
        stop(server)
        for _ in range(4):  # those that come at once may be one to the kernel
            server.child.signal(signal.SIGTERM)
        assert client.end_of("a")["type"] == "canceled"
        tell(server, "drawing")
    assert "Traceback" not in server.child.seen


def test_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """As past a limit of threads; the threads that are there have to do."""

    def cannot(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # as Python says it

    server = Here(ScriptedEngine)
    ending = Ending(server.service, server.server, grace_s=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot)
        ending.signal(signal.SIGTERM)
    server.end()
    ending.join()
    assert ending.exit_code(StopReason.STOPPED) == 0
