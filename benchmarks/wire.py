"""What cutting messages into packets costs, in memory and over loopback.

    python benchmarks/wire.py [--megabytes 8] [--packet-size 1024] [--rounds 20]

In memory a body is encoded, and a stream of packets decoded as it would come from a socket, in
pieces of 256 KiB; both against copying the same bytes once, and in GB/s. Over loopback the body
goes there and back through both ends' state machines, against the same bytes by `sendall` and
`recv` alone. Last, what a picture costs as base64 in JSON, both ways, against the wire alone: what
sending pictures as they are could save; and packets of 64 KiB against those of the given size.
"""

from __future__ import annotations

import argparse
import base64
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

from side_by_side import compare

from runai.schema import codec
from runai.schema.events import Preview
from runai.wire.connection import Connection, Message, Role
from runai.wire.packets import encode

PIECE = 256 * 1024
LARGE_PACKET = 64 * 1024


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def body_of(size: int) -> bytes:
    """Text as a picture in JSON is: base64."""
    return base64.b64encode(os.urandom(size * 3 // 4 + 3))[:size]


def pieces_of(data: bytes) -> list[bytes]:
    return [data[i : i + PIECE] for i in range(0, len(data), PIECE)]


def decoded(pieces: list[bytes], packet_size: int) -> bytes:
    core = Connection(Role.SERVER, packet_size)
    for piece in pieces:
        core.receive_data(piece)
        while (event := core.next_event()) is not None:
            assert isinstance(event, Message)
            return event.body
    raise AssertionError("the message has no end")


def echo(sock: socket.socket, packet_size: int) -> None:
    """Give every message back, until the client leaves."""
    core = Connection(Role.SERVER, packet_size)
    while data := sock.recv(PIECE):
        core.receive_data(data)
        while (event := core.next_event()) is not None:
            if isinstance(event, Message):
                core.send_message(event.body)
                for piece in core.data_to_send():
                    sock.sendall(piece)


def echo_bytes(sock: socket.socket, size: int) -> None:
    """Give every `size` bytes back, until the client leaves."""
    while True:
        parts, missing = [], size
        while missing:
            part = sock.recv(min(PIECE, missing))
            if not part:
                return
            parts.append(part)
            missing -= len(part)
        sock.sendall(b"".join(parts))


def connected(answer: Callable[[socket.socket], None]) -> socket.socket:
    """A connection over loopback to a thread that answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=answer, args=(far,)).start()
    return near


def there_and_back(sock: socket.socket, core: Connection, body: bytes) -> None:
    core.send_message(body)
    for piece in core.data_to_send():
        sock.sendall(piece)
    while (event := core.next_event()) is None:
        core.receive_data(sock.recv(PIECE))
    assert isinstance(event, Message) and len(event.body) == len(body)


def bytes_there_and_back(sock: socket.socket, body: bytes) -> None:
    sock.sendall(body)
    missing = len(body)
    while missing:
        missing -= len(sock.recv(min(PIECE, missing)))


def in_json(picture: bytes) -> None:
    """A picture as an event's text, and back."""
    event = Preview(id="b", index=0, step=1, png=picture)
    assert codec.parse_event(codec.decode(codec.encode(event))) == event


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=8)
    parser.add_argument("--packet-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    body, size = body_of(args.megabytes * 2**20), args.packet_size
    name = f"{args.megabytes} MiB, packets of {size}"
    coming = pieces_of(encode(body, size))
    coming_large = pieces_of(encode(body, LARGE_PACKET))

    def copy() -> float:
        return timed(lambda: bytearray(body))

    def measure(what: str, ours: Callable[[], object], theirs: Callable[[], float]) -> float:
        measured = compare(what, partial(timed, ours), theirs, rounds=args.rounds)
        measured.show()
        return measured.ours_s

    took = measure(f"encode {name}, against a copy", lambda: encode(body, size), copy)
    print(f"  {len(body) / took / 1e9:.1f} GB/s")
    took = measure(f"decode {name}, against a copy", lambda: decoded(coming, size), copy)
    print(f"  {len(body) / took / 1e9:.1f} GB/s")
    measure(
        f"decode {name}, against packets of {LARGE_PACKET}",
        lambda: decoded(coming, size),
        lambda: timed(lambda: decoded(coming_large, LARGE_PACKET)),
    )
    core = Connection(Role.CLIENT, size)
    with (
        connected(lambda sock: echo(sock, size)) as near,
        connected(lambda sock: echo_bytes(sock, len(body))) as plain,
    ):
        measure(
            f"there and back over loopback, {name}, against sendall and recv",
            lambda: there_and_back(near, core, body),
            lambda: timed(lambda: bytes_there_and_back(plain, body)),
        )
    picture = os.urandom(len(body) * 3 // 4)
    measure(
        f"base64 in JSON and back, {len(picture) >> 20} MiB, against encoding and decoding packets",
        lambda: in_json(picture),
        lambda: timed(lambda: decoded(pieces_of(encode(body, size)), size)),
    )


if __name__ == "__main__":
    main()
