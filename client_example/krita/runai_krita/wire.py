"""Packets, both ways: a message is one JSON object in packets of 1024 bytes.

The last packet is filled up with NUL bytes, and a packet of only NUL bytes ends the message.
Pure: knows no socket. The server's docs/protocol.md is the reference.
"""

from __future__ import annotations

import json
from typing import Any, Iterator

PACKET_SIZE = 1024  # the server's --packet-size, unless somebody has changed that
END_OF_MESSAGE = bytes(PACKET_SIZE)
MAX_BODY_BYTES = 256 * 1024 * 1024  # more than any answer: what sends so much is no server


class Garbled(Exception):
    """What came is nothing that a RunAI server says."""


def encode(message: dict[str, Any]) -> bytes:
    body = json.dumps(message).encode("ascii")
    return body + bytes(-len(body) % PACKET_SIZE) + END_OF_MESSAGE


class Reader:
    """Makes messages of a stream, however it is cut."""

    def __init__(self) -> None:
        self._pending = bytearray()  # less than a packet
        self._body = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The messages that are complete with this. Raises Garbled after those before it."""
        self._pending += data
        whole = len(self._pending) // PACKET_SIZE * PACKET_SIZE
        packets = bytes(self._pending[:whole])
        del self._pending[:whole]
        for start in range(0, whole, PACKET_SIZE):
            packet = packets[start : start + PACKET_SIZE]
            if packet == END_OF_MESSAGE:
                yield self._take()
            else:
                self._keep(packet)

    def _keep(self, packet: bytes) -> None:
        if len(self._body) >= MAX_BODY_BYTES:
            raise Garbled("A message without an end came.")
        self._body += packet

    def _take(self) -> dict[str, Any]:
        body = bytes(self._body.rstrip(b"\0"))
        self._body.clear()
        try:
            message = json.loads(body)
        except ValueError:  # neither UTF-8 nor JSON is meant as well
            raise Garbled("What came is not JSON.") from None
        if not isinstance(message, dict):
            raise Garbled("What came is not a JSON object.")
        return message
