"""Foreign vocabularies, one file each, and the choice between them.

A dialect turns a decoded message into a `Spoken`: the native command, and the `Reply` that
puts events about it into the words that this client understands. A message with a `type` is
native; anything else is taken for the original Krita plugin's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from runai.schema.events import Event
from runai.schema.requests import Command


class Reply(Protocol):
    """Renders events about one request for the client that sent it."""

    def render(self, event: Event) -> list[bytes]:
        """The bodies to send for an event, none if the client has no use for it."""
        ...


@dataclass(frozen=True)
class Spoken:
    command: Command
    reply: Reply


def understand(message: dict[str, Any]) -> Spoken:
    """What a client's message asks, and how to answer it.

    Raises a RequestError; answer that with `reply_to(message)`.
    """
    from runai.schema.dialects import krita, native

    parse = native.parse if "type" in message else krita.parse
    return parse(message)


def reply_to(message: dict[str, Any]) -> Reply:
    """The Reply for a message that could not be understood."""
    from runai.schema.dialects import krita, native

    return native.REPLY if "type" in message else krita.reply_to(message)
