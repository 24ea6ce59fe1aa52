"""Servers over scripted engines, and what the plugin's connection says of them."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image
from runai_krita.connection import Connection

from runai.jobs.service import Service
from runai.testing.scripted import ScriptedEngine
from runai.transports.gate import Gate, Keys
from runai.transports.listener import bind
from runai.transports.socket_server import SocketOptions, SocketServer

PATIENCE_S = 20.0
HELLO = {"type": "hello", "protocol": 1, "client": "test"}


class Running:
    """A server on a thread; `end` breaks all its connections."""

    def __init__(self, engine: ScriptedEngine, port: int = 0, keys: Keys = Keys()) -> None:  # noqa: B008 (frozen)
        self.engine = engine
        self._service = Service(lambda: engine)
        self._server = SocketServer(
            bind("127.0.0.1", port), self._service, SocketOptions(keep_alive=True), Gate(keys)
        )
        self.port = self._server.port
        self._thread = threading.Thread(target=self._server.run)
        self._service.start()
        self._thread.start()

    def end(self) -> None:
        self.engine.gate.open()
        self._server.stop()
        self._thread.join(PATIENCE_S)
        self._service.stop()


def noise(side: int) -> bytes:
    """A picture that is hard to compress."""
    out = io.BytesIO()
    channels = [Image.effect_noise((side, side), 100) for _ in range(3)]
    Image.merge("RGB", channels).save(out, "PNG", compress_level=1)
    return out.getvalue()


class Heard:
    """A connection, and a way to wait for what it says."""

    def __init__(
        self,
        port: int,
        revive: Any = None,
        pauses_s: Any = (0.01,),
        token: str = "",
        certificate: str = "",
    ) -> None:
        self.told = threading.Event()
        self.connection = Connection(
            ("127.0.0.1", port),
            {**HELLO, "token": token} if token else HELLO,
            self.told.set,
            revive,
            pauses_s=pauses_s,
            certificate=certificate,
        )
        self.seen: list[dict[str, Any]] = []
        self.connection.start()

    def until(self, kind: str, request_id: str | None = None) -> dict[str, Any]:
        """The next event of this kind; those before it are only noted."""
        while True:
            event = self.connection.events.get(timeout=PATIENCE_S)
            self.seen.append(event)
            if event.get("type") == kind and request_id in (None, event.get("id")):
                return event

    def ask(self, request_id: str, **fields: Any) -> None:
        small = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}
        message = {"type": "generate", "task": "txt2img", "id": request_id, **small, **fields}
        self.connection.ask(message)


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(engine: ScriptedEngine | None = None, port: int = 0, **more: Any) -> Running:
        made.append(Running(engine or ScriptedEngine(), port, **more))
        return made[-1]

    yield make
    for running in made:
        running.end()


@pytest.fixture
def listen() -> Iterator[Callable[..., Heard]]:
    """Makes connections, which are closed with the test; no thread may be left then."""
    before = set(threading.enumerate())
    made: list[Heard] = []

    def make(port: int, **options: Any) -> Heard:
        made.append(Heard(port, **options))
        return made[-1]

    yield make
    for heard in made:
        heard.connection.close()
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert "runai-connection" not in left
