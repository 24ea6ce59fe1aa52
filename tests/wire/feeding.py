"""Ways to hand the same bytes to a Connection, and the events that come of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runai.wire.connection import Connection, Role, WireEvent

PACKET = 16
LIMIT = 100


def server(packet_size: int = PACKET, max_message_bytes: int = LIMIT) -> Connection:
    return Connection(Role.SERVER, packet_size, max_message_bytes)


def events_of(connection: Connection) -> Iterator[WireEvent]:
    while (event := connection.next_event()) is not None:
        yield event


def feed(
    connection: Connection, pieces: Iterable[bytes], *, then_eof: bool = True
) -> list[WireEvent]:
    """All events of bytes that come in these pieces."""
    events: list[WireEvent] = []
    for piece in pieces:
        connection.receive_data(piece)
        events += events_of(connection)
    if then_eof:
        connection.receive_eof()
        events += events_of(connection)
    return events


def single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]
