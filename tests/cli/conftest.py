"""Commands with the scripted engine: in this process, and in processes of their own."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import children
import pytest

from runai.client import Client
from runai.jobs.errands import Words
from runai.jobs.service import Service
from runai.schema.requests import TextToImage
from runai.testing.scripted import ScriptedEngine
from runai.transports import listener
from runai.transports.socket_server import SocketOptions, SocketServer

# a server that draws by script, as a program: its words follow
SERVE = """
import sys
from runai.cli import main
from runai.testing.scripted import ScriptedEngine
sys.exit(main(sys.argv[1:], make_engine=ScriptedEngine))
"""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of whoever runs the tests is seen, and the log is let go of."""
    for variable in [v for v in os.environ if v.startswith("RUNAI_") or v == "BASE_DIR"]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    logging.captureWarnings(False)


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that nobody listens on and nobody else can take."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def _running(
    engine: ScriptedEngine, conversion: Words | None = None, **options: int
) -> Iterator[int]:
    service = Service(lambda: engine, conversion=conversion)
    listeners = listener.bind("127.0.0.1", 0)
    server = SocketServer(listeners, service, SocketOptions(keep_alive=True, **options))
    thread = threading.Thread(target=server.run)
    service.start()
    thread.start()
    try:
        yield server.port
    finally:
        engine.gate.open()
        server.stop()
        service.stop()
        thread.join(children.PATIENCE_S)


@pytest.fixture
def running() -> Callable[..., object]:
    """`with running(engine) as port`: a server on a thread."""
    return _running


def draw_another(port: int) -> None:
    """A request from start to end: what was before it, the worker has dealt with by then."""
    with Client("127.0.0.1", port) as client:
        *_, last = client.generate(TextToImage(id="another"))
    assert last.type == "completed"


@pytest.fixture
def another() -> Callable[[int], None]:
    return draw_another


@pytest.fixture
def start() -> Iterator[Callable[..., children.Child]]:
    """`start(words…)`: Python with these words as a child process."""
    begun: list[children.Child] = []

    def start_child(*words: str) -> children.Child:
        begun.append(children.python(*words))
        return begun[-1]

    yield start_child
    for child in begun:
        child.close()
