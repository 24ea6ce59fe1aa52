"""Signals as calls on a thread of their own.

Theory of operation. A Python signal handler runs between any two instructions of the main
thread, which may hold any lock then, so it may take none. Ours mostly does nothing at all: the
interpreter writes the signal's number into a socket pair (`signal.set_wakeup_fd`), and a
thread reads it there and calls `react`, where it may block and lock as it likes.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGTERM, signal.SIGINT)


def _nothing(number: int, frame: object) -> None:
    """Only that there is a handler makes the interpreter write to the socket pair."""


@contextmanager
def caught(
    react: Callable[[int], None],
    numbers: Collection[int] = ENDING,
    *,
    handler: Callable[[int, object], None] = _nothing,
) -> Iterator[None]:
    """Within, `react(number)` is called for each of these signals, one after the other.

    `handler`: called as well, by the interpreter in the main thread. Only the main thread may
    catch signals; on any other this does nothing, and whoever runs the main thread decides what
    they do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        thread = threading.Thread(target=_read, args=(reader, react, numbers), name="runai-signals")
        thread.start()
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, handler) for number in numbers}
        try:
            yield
        finally:
            for number, restored in handlers.items():
                signal.signal(number, restored)
            signal.set_wakeup_fd(before)
            writer.shutdown(socket.SHUT_WR)
            thread.join()


def _read(reader: socket.socket, react: Callable[[int], None], numbers: Collection[int]) -> None:
    while arrived := reader.recv(16):
        for number in arrived:
            if number in numbers:
                react(number)
