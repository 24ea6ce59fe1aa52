"""The native protocol, as the dialect that needs no translation."""

from __future__ import annotations

from typing import Any

from runai.schema import codec
from runai.schema.dialects import Spoken
from runai.schema.events import Event


class NativeReply:
    def render(self, event: Event) -> list[bytes]:
        return [codec.encode(event)]


REPLY = NativeReply()


def parse(message: dict[str, Any]) -> Spoken:
    return Spoken(codec.parse_command(message), REPLY)
