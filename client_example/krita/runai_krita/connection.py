"""The connection to the server: one socket, one thread, and events for somebody else's.

Theory of operation. The thread connects, says hello, asks for the models, and then waits in
`select` for the socket and for a socketpair, through which other threads wake it. What the server
says is put into `events`, in the server's own words, and `tell` is called after it. When the
connection breaks, what was open gets its last answer (`Conversation.lost`), one `gone` says why,
and the thread connects again: at once when asked to, else after pauses that grow until a
server says hello. What is asked meanwhile waits and is sent then. If nobody listens,
`revive` may start a server; it answers what it has done.

A server on another computer speaks TLS: `certificate` is a copy of its certificate, and whoever has
the key of that one, and nobody else, is the server, whatever it is called.

Events of our own: `{"type": "gone", "message": …, "starting": bool}` and
`{"type": "connected"}`. Never touches Krita or Qt.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from queue import SimpleQueue
from typing import Any, Callable, NamedTuple

from .conversation import Conversation
from .wire import Garbled, encode

CONNECT_S = 3.0
READ_BYTES = 256 * 1024
PAUSES_S = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
# what a socket says that has nothing to read, or no room to write, after all
NOT_READY = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
# UnicodeError, OverflowError: an address with such a host or port leads nowhere
LOSSES = (OSError, Garbled, UnicodeError, OverflowError)
SOON_S = 0.3  # a server that is being started listens within moments


class Revived(NamedTuple):
    """What came of looking for a program to start."""

    running: bool
    words: str


class Connection:
    """See the module. `start` it once; `close` joins the thread."""

    def __init__(
        self,
        address: tuple[str, int],
        hello: dict[str, Any],
        tell: Callable[[], None],
        revive: Callable[[], Revived] | None = None,
        pauses_s: tuple[float, ...] = PAUSES_S,
        certificate: str = "",
    ) -> None:
        self.events: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._address = address
        self._hello = hello
        self._tell = tell
        self._revive = revive
        self._pauses_s = pauses_s
        self._certificate = certificate
        self._lock = threading.Lock()  # guards the two below
        self._outbox: list[dict[str, Any]] = []
        self._closing = False
        self._alarm, self._bell = socket.socketpair()
        for end in (self._alarm, self._bell):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="runai-connection")

    def start(self) -> None:
        self._thread.start()

    def ask(self, request: dict[str, Any]) -> None:
        """Send a request, or keep it until there is a server."""
        with self._lock:
            self._outbox.append(request)
        self._wake()

    def cancel(self, request_id: str) -> None:
        """End a request; its last answer still comes."""
        cancel = {"type": "cancel", "id": request_id}
        with self._lock:
            waiting = [m for m in self._outbox if m["id"] == request_id and m != cancel]
            self._outbox = [m for m in self._outbox if m not in waiting]
            if not waiting:
                self._outbox.append(cancel)
        if waiting:
            self._say({"type": "canceled", "id": request_id})
        self._wake()

    def close(self) -> None:
        """Leave the server. What is open gets no more answers."""
        with self._lock:
            self._closing = True
        self._wake()
        self._thread.join()
        self._alarm.close()
        self._bell.close()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is full of rings that nobody heard yet
            self._bell.send(b"\0")

    def _say(self, *events: dict[str, Any]) -> None:
        for event in events:
            self.events.put(event)
        self._tell()

    # --- the thread --------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._is_closing():
            talk = Conversation()
            try:
                with self._connect() as connected:
                    self._say({"type": "connected"})
                    self._talk(connected, talk)
            except LOSSES as error:
                failures = 0 if talk.greeted else failures + 1
                self._pause(self._lose(talk, error), failures)

    def _connect(self) -> socket.socket:
        plain = socket.create_connection(self._address, CONNECT_S)
        if not self._certificate:
            return plain
        try:
            context = ssl.create_default_context(cafile=self._certificate)
            context.check_hostname = False  # at home a server has no name that is vouched for
            return context.wrap_socket(plain)
        except BaseException:
            plain.close()
            raise

    def _is_closing(self) -> bool:
        with self._lock:
            return self._closing

    def _talk(self, connected: socket.socket, talk: Conversation) -> None:
        """Until this side closes. Raises OSError or Garbled when the other side is gone."""
        connected.setblocking(False)
        out = bytearray()
        for message in (self._hello, {"type": "models"}):
            talk.sent(message)
            out += encode(message)
        with selectors.DefaultSelector() as selector:
            selector.register(self._alarm, selectors.EVENT_READ)
            selector.register(connected, selectors.EVENT_READ)
            while not self._is_closing():
                out += self._take_outbox(talk)
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if out else 0)
                selector.modify(connected, wanted)
                for key, ready in selector.select():
                    if key.fileobj is self._alarm:
                        self._hear_bell()
                        continue
                    with contextlib.suppress(*NOT_READY):
                        if ready & selectors.EVENT_WRITE:
                            del out[: connected.send(out)]
                        if ready & selectors.EVENT_READ:
                            self._read(connected, talk)

    def _take_outbox(self, talk: Conversation) -> bytes:
        with self._lock:
            messages, self._outbox = self._outbox, []
        for message in messages:
            talk.sent(message)
        return b"".join(encode(message) for message in messages)

    def _hear_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._alarm.recv(READ_BYTES)

    def _read(self, connected: socket.socket, talk: Conversation) -> None:
        data = connected.recv(READ_BYTES)
        if not data:
            raise ConnectionError("The server has closed the connection.")
        # what TLS has unpacked already is nothing that `select` would wake us for
        while isinstance(connected, ssl.SSLSocket) and connected.pending():
            data += connected.recv(READ_BYTES)
        for message in talk.hear(data):
            self._say(message)

    # --- without a server --------------------------------------------------------------

    def _lose(self, talk: Conversation, error: Exception) -> bool:
        """Tell what is lost, and why; whether a server is being started."""
        why = self._words_for(error)
        revived = Revived(running=False, words="")
        if isinstance(error, ConnectionRefusedError) and self._revive is not None:
            revived = self._revive()
        gone = {"type": "gone", "message": revived.words or why, "starting": revived.running}
        self._say(*talk.lost("The server went away while it was at this."), gone)
        return revived.running

    def _words_for(self, error: Exception) -> str:
        host, port = self._address
        if isinstance(error, Garbled):
            return f"What answers at {host}:{port} is not a RunAI server. {error}"
        if isinstance(error, ConnectionRefusedError):
            return f"There is no server at {host}:{port}."
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{host}:{port} shows another certificate than {self._certificate}."
        reason = getattr(error, "strerror", None) or str(error)
        return f"The connection to {host}:{port} is gone: {reason.rstrip('.')}."

    def _pause(self, starting: bool, failures: int) -> None:
        """Until it is time to try again, or until somebody wakes the thread."""
        pause_s = SOON_S if starting else self._pauses_s[min(failures, len(self._pauses_s) - 1)]
        with selectors.DefaultSelector() as selector:
            selector.register(self._alarm, selectors.EVENT_READ)
            if selector.select(pause_s):
                self._hear_bell()
