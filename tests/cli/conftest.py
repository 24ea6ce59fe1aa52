"""Commands with the scripted engine: in this process, and in processes of their own."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runai.client import Client
from runai.jobs.errands import Words
from runai.jobs.service import Service
from runai.schema.requests import TextToImage
from runai.testing.scripted import ScriptedEngine
from runai.transports import listener
from runai.transports.socket_server import SocketOptions, SocketServer

PATIENCE_S = 30.0
ROOT = Path(__file__).parents[2]
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
        thread.join(PATIENCE_S)


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


class Child:
    """A process of ours; its stderr is read line by line."""

    def __init__(self, words: list[str]) -> None:
        self.process = subprocess.Popen(
            words,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # a child that hangs fails its test instead of hanging it
        self._alarm = threading.Timer(PATIENCE_S, self.process.kill)
        self._alarm.start()
        self.seen = ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match in the lines of stderr from here on."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.seen += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"{pattern!r} was never said, but: {self.seen}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def tell(self) -> None:
        """Let the child's script go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        out, err = self.process.communicate()
        self.out = out
        self.seen += err
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._alarm.cancel()
        self._alarm.join()


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """`start(words…)`: Python with these words as a child process."""
    children: list[Child] = []

    def start_child(*words: str) -> Child:
        children.append(Child([sys.executable, *words]))
        return children[-1]

    yield start_child
    for child in children:
        child.close()
