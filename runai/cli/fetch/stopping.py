"""Ctrl-C while something is fetched.

Theory of operation. Python raises KeyboardInterrupt between any two instructions of the main
thread: in a destructor or a callback of a library's it is printed and forgotten, and a read that
was just about to begin sleeps on. So while bytes come in nothing is raised. The signals' thread
shuts the connection down, which ends a read wherever it is, and `receiving` raises on its way
out. At all other times (a name is looked up, a hash computed) nothing could be shut down, and
Python's way is the right one.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator

from runai.cli.signals import caught


class Stop:
    """Whether Ctrl-C was pressed, and the connection that it is to end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards both below for all but `_at_once`
        self._connection: socket.socket | None = None
        self._wanted = False

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Within, KeyboardInterrupt is raised for Ctrl-C at once or by `receiving`."""
        with caught(self._stop, numbers=(signal.SIGINT,), handler=self._at_once):
            yield

    @contextlib.contextmanager
    def receiving(self, connection: socket.socket) -> Iterator[None]:
        """Within, bytes are read from there. Raises KeyboardInterrupt in the end, if it came."""
        with self._lock:
            self._connection = connection
        try:
            self._check()
            yield
        finally:
            with self._lock:
                self._connection = None
            self._check()

    def _check(self) -> None:
        if self._wanted:
            raise KeyboardInterrupt

    def _stop(self, number: int) -> None:
        """On the signals' thread."""
        with self._lock:
            self._wanted = True
            if self._connection is not None:
                # the socket's own: that of a TLS connection is not for another thread
                with contextlib.suppress(OSError):  # it has ended by itself
                    socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def _at_once(self, number: int, frame: object) -> None:
        """In the main thread, between any two instructions: it takes no lock."""
        self._wanted = True
        if self._connection is None:
            raise KeyboardInterrupt
