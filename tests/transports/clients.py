"""Clients for tests: one that reads properly, and one that reads as the original plugin does.

Every wait ends after `PATIENCE_S`, so a test that waits for what never comes fails.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
from typing import Any, Self

from PIL import Image

from runai.wire import connection as wire

PATIENCE_S = 10.0
PACKET = 1024
LAST = ("completed", "failed", "canceled")
Json = dict[str, Any]


class RawClient:
    """Sends what it is told, broken or not, and reads properly."""

    def __init__(
        self,
        port: int,
        packet_size: int = PACKET,
        host: str = "127.0.0.1",
        *,
        connected: socket.socket | None = None,
    ) -> None:
        """`connected`: a socket to use, instead of a new one to that host and port."""
        self.sock = connected or socket.create_connection((host, port), PATIENCE_S)
        self.core = wire.Connection(wire.Role.CLIENT, packet_size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def send(self, message: Any) -> None:
        self.send_body(json.dumps(message).encode())

    def send_body(self, body: bytes) -> None:
        self.core.send_message(body)
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(b"".join(self.core.data_to_send()))

    def receive(self) -> Json | None:
        """The next message; None when the server has closed."""
        while (event := self.core.next_event()) is None:
            data = self.sock.recv(1 << 18)
            if data:
                self.core.receive_data(data)
            else:
                self.core.receive_eof()
        if not isinstance(event, wire.Message):
            assert event == wire.Closed(), event
            return None
        message: Json = json.loads(event.body)
        return message

    def receive_type(self, *wanted: str) -> Json:
        """The next message of one of these types; others are passed over."""
        while True:
            message = self.receive()
            assert message is not None, f"closed before {wanted}"
            if message.get("type") in wanted:
                return message

    def read_bytes(self, count: int) -> None:
        """So many bytes off the stream, whatever they mean."""
        while count:
            part = self.sock.recv(count)
            assert part, "closed before that"
            count -= len(part)

    def ask(self, message: Any) -> Json:
        """The last answer to a native request."""
        self.send(message)
        return self.receive_type(*LAST)

    def hello(self, *, observer: bool = False, token: str | None = None) -> Json:
        self.send({"type": "hello", "observer": observer, "token": token})
        return self.receive_type("hello")

    def close(self) -> None:
        self.sock.close()

    def kill(self) -> None:
        """As a killed process leaves: with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class NaiveReader:
    """Reads as the original plugin: the EOM must be one read of exactly one packet."""

    def __init__(self, sock: socket.socket, packet_size: int = PACKET) -> None:
        self.sock = sock
        self.packet_size = packet_size

    def read(self) -> bytes | None:
        """What it takes for one message; None when the server has closed."""
        body = bytearray()
        while part := self.sock.recv(self.packet_size):
            if part == b"\0" * self.packet_size:
                return bytes(body).strip(b"\0")
            body += part
        return None

    def read_message(self) -> Any:
        """Raises ValueError for two messages taken for one."""
        body = self.read()
        return None if body is None else json.loads(body)


def generate(request_id: str = "r", **fields: Any) -> Json:
    """A small native request."""
    small = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}
    return {"type": "generate", "task": "txt2img", "id": request_id, **small, **fields}


def plugin_request(action: str = "txt2img", **options: Any) -> Json:
    """A small request in the plugin's words; all its values are text, as after a restart."""
    own = {"prompt": "a cat", "steps": "2", "width": "64", "height": "64", "seed": "42"}
    prefixed = {f"{action}_{key}": value for key, value in own.items()}
    return {"action": action, "options": {**prefixed, "pos_x": 3, "pos_y": 4, **options}}


def png(side: int = 64) -> str:
    """A small picture as base64 text."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()
