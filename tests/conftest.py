"""A server's end of a real connection that does what the test writes down."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from pydantic import BaseModel

from runai.schema import codec
from runai.schema.events import Capabilities, HelloEvent
from runai.wire.connection import Connection, Message, Role
from runai.wire.packets import encode

PATIENCE_S = 10.0
HELLO = HelloEvent(
    server_version="9",
    protocol=1,
    state="ready",
    capabilities=Capabilities(
        tasks=[],
        samplers=[],
        max_message_bytes=1,
        max_json_depth=1,
        max_input_pixels=1,
        max_pixels=1,
        max_steps=1,
        max_images=1,
    ),
)


class Peer:
    """One accepted connection."""

    def __init__(self, accepted: socket.socket, packet_size: int) -> None:
        self.socket = accepted
        self._packet_size = packet_size
        self._wire = Connection(Role.SERVER, packet_size)

    def read(self) -> dict[str, Any]:
        """The next message; empty when the client has left."""
        while not isinstance(event := self._wire.next_event(), Message):
            data = self._receive()
            if not data:
                return {}
            self._wire.receive_data(data)
        return codec.decode(event.body)

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(4096)
        except ConnectionResetError:  # left without reading what we said
            return b""

    def say(self, *events: BaseModel | bytes) -> None:
        for event in events:
            body = event if isinstance(event, bytes) else codec.encode(event)
            self.socket.sendall(encode(body, self._packet_size))

    def welcome(self) -> None:
        assert self.read()["type"] == "hello"
        self.say(b'{"versions": {}}', HELLO)

    def wait_until_left(self) -> None:
        while self.read():
            pass


Script = Callable[[Peer], None]


class Stage:
    """A listener whose first connection runs the first script, the second the second, …"""

    def __init__(self) -> None:
        self.packet_size = 1024
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE_S)
        self._threads: list[threading.Thread] = []
        self.port = self._listener.getsockname()[1]

    def play(self, *scripts: Script) -> None:
        thread = threading.Thread(target=self._accept, args=(scripts,))
        self._threads.append(thread)
        thread.start()

    def _accept(self, scripts: tuple[Script, ...]) -> None:
        # what a script raises fails the test: pytest hears of it from the thread
        for script in scripts:
            accepted, _ = self._listener.accept()
            accepted.settimeout(PATIENCE_S)
            with accepted:
                script(Peer(accepted, self.packet_size))

    def close_listener(self) -> None:
        self._listener.close()

    def end(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)
        with suppress(OSError):
            self._listener.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.end()
