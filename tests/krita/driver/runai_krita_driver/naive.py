"""A reader as in the original plugin: it sees the end of a message only as a read of its own.

It takes what `recv(packet size)` returns for one packet, with whatever pauses Krita's Python makes
between two reads; what it reads becomes layers, in the GUI thread. The server is one of the tests',
at `RUNAI_DRIVER_NAIVE_PORT`: it answers at once, with pictures that are hard to compress.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from PyQt5.QtCore import QByteArray, QObject, pyqtSignal
from PyQt5.QtGui import QImage

from . import stage

PACKET = 1024
END = bytes(PACKET)
REPLIES = 100
AT_ONCE = 10  # pictures a request
SIDE = 512
READ_S = 60.0


class Reader(QObject):
    """`came` is emitted for each message, on the reader's thread."""

    came = pyqtSignal(object)

    def __init__(self, port: int) -> None:
        super().__init__()
        self._socket = socket.create_connection(("localhost", port))
        self._socket.settimeout(READ_S)
        self.broken: list[str] = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def ask(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        self._socket.sendall(body + bytes(-len(body) % PACKET) + END)

    def leave(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self._socket.close()

    def _read(self) -> None:
        body = b""
        while packet := self._socket.recv(PACKET):
            if packet != END:
                body += packet
                continue
            try:
                self.came.emit(json.loads(body.replace(b"\0", b"")))
            except ValueError as error:  # two messages in one: an end was missed
                self.broken.append(str(error))
            body = b""


def original_plugin() -> Iterator[Callable[[], Any]]:
    """As many large replies as make a missed end of message show."""
    document = stage.new_document(SIDE, SIDE)
    kinds: list[str] = []
    sizes: list[int] = []

    def insert(message: dict[str, Any]) -> None:
        kinds.append(next(key for key in ("image", "versions", "action") if key in message))
        if "image" in message:
            sizes.append(len(message["image"]))
            layer = document.createNode(f"reply {kinds.count('image')}", "paintlayer")
            image = QImage.fromData(base64.b64decode(message["image"]), "PNG")
            data = image.convertToFormat(QImage.Format_ARGB32).constBits()
            data.setsize(4 * SIDE * SIDE)
            layer.setPixelData(
                QByteArray(bytes(data)), message["pos_x"], message["pos_y"], SIDE, SIDE
            )
            document.rootNode().addChildNode(layer, None)

    reader = Reader(int(os.environ["RUNAI_DRIVER_NAIVE_PORT"]))
    reader.came.connect(insert)
    options = {"txt2img_width": SIDE, "txt2img_height": SIDE, "txt2img_n_samples": AT_ONCE}
    for _ in range(REPLIES // AT_ONCE):
        reader.ask({"action": "txt2img", "options": {**options, "pos_x": 0, "pos_y": 0}})
    try:
        yield lambda: stage.has_layers(document, REPLIES + 1)() or reader.broken
    finally:
        reader.leave()
    return {
        "layers": len(stage.layers(document)) - 1,
        "broken": reader.broken,
        "least_bytes": min(sizes),
    }
