"""One connection's bookkeeping: which questions the server still owes an answer.

Every request gets exactly one last answer, `completed`, `failed` or `canceled`: the server's, or
when the connection breaks one from `lost`. A `failed` without an id answers a message that the
server could not read; it belongs to what has waited longest for a first answer, because
a server answers in order. Pure: knows no socket.
"""

from __future__ import annotations

from typing import Any, Iterator

from .wire import Reader

LAST = ("completed", "failed", "canceled")


def failed(request_id: str, code: str, message: str, hint: str) -> dict[str, Any]:
    """In the server's form, for what fails on this side."""
    return {
        "type": "failed",
        "id": request_id,
        "error": {"code": code, "message": message, "hint": hint},
    }


class Conversation:
    """See the module."""

    def __init__(self) -> None:
        self.greeted = False  # it has said hello, so it is a RunAI server
        self._reader = Reader()
        self._open: list[str] = []  # ids of requests without a last answer
        self._unanswered: list[str] = []  # ids, or kinds of questions, without a first one

    def sent(self, message: dict[str, Any]) -> None:
        """Note what is about to be sent."""
        if message["type"] == "generate":
            self._open.append(message["id"])
            self._unanswered.append(message["id"])
        elif message["type"] != "cancel":
            self._unanswered.append(message["type"])

    def hear(self, data: bytes) -> Iterator[dict[str, Any]]:
        """What the server says in these bytes. Raises Garbled."""
        for message in self._reader.feed(data):
            self._note(message)
            yield message

    def _note(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "failed" and not message.get("id") and self._unanswered:
            first = self._unanswered.pop(0)
            message["id"] = first if first in self._open else ""
        answered = message.get("id") or kind
        if answered in self._unanswered:
            self._unanswered.remove(answered)
        if kind in LAST and message.get("id") in self._open:
            self._open.remove(message["id"])
        self.greeted = self.greeted or kind == "hello"

    def lost(self, why: str) -> list[dict[str, Any]]:
        """The last answers of all that was open when the connection broke."""
        lost = [
            failed(request_id, "connection_lost", why, "Press Generate again.")
            for request_id in self._open
        ]
        self._open.clear()
        return lost
