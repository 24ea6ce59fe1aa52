"""The packet decoder again, as naively as it can be written, to compare the real one with.

It has all bytes at once, looks at them packet by packet, and knows nothing of buffers.
"""

from __future__ import annotations

from runai.wire.connection import Cancel, Closed, CutShort, Message, Quit, TooLarge, WireEvent


def events_of(stream: bytes, size: int, most: int, *, controls: bool) -> list[WireEvent]:
    """What a stream says that ends after these bytes. `controls`: as a server reads it."""
    packets = [stream[i : i + size] for i in range(0, len(stream), size)]
    events: list[WireEvent] = []
    while packets:
        if controls and packets[0] == b"x" * size:
            return [*events, Quit()]
        if controls and packets[0] == b"c" * size:
            events.append(Cancel())
            del packets[0]
            continue
        if bytes(size) not in packets:
            return [*events, *_unfinished(b"".join(packets), size, most)]
        eom = packets.index(bytes(size))
        events.append(_message(packets[:eom], most))
        del packets[: eom + 1]
    return [*events, Closed()]


def _message(packets: list[bytes], most: int) -> WireEvent:
    """Only the last packet is filled up."""
    body = b"".join([*packets[:-1], *(packet.rstrip(b"\0") for packet in packets[-1:])])
    return Message(body) if len(body) <= most else TooLarge(most)


def _unfinished(rest: bytes, size: int, most: int) -> list[WireEvent]:
    begun = len(rest) >= size  # less than a packet is no message yet
    return [TooLarge(most), CutShort()] if begun and len(rest) > most + 2 * size else [CutShort()]
