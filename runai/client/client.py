"""The client's facade: asks, follows requests, and connects again when it has to.

Rules: the first connection is tried once, so that a missing server is known at once; a lost
one is tried again a few times, with growing pauses, at the next call.

When the network breaks while requests are open, and the server keeps them for who comes back, a
thread of its own connects again for as long as the server waits and a little longer; calls wait
for the outcome. What the server still has goes on as if nothing had been. What it has not, and
everything where it keeps nothing or has closed the connection itself, raises ConnectionLost:
nothing is sent again, for only the caller knows whether it is still wanted.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from runai import PROTOCOL_VERSION, __version__
from runai.client.address import Address
from runai.client.answers import Answers
from runai.client.kept import NOTHING, Kept
from runai.client.link import KEEPALIVE, Link
from runai.errors import ConnectionLost, NotTrusted, RunAIError, TooManyConnections
from runai.schema.events import ErrorBody, HelloEvent, ModelInfo, Models, Status
from runai.schema.requests import GenerationRequest, GetStatus, Hello, ListModels

if TYPE_CHECKING:
    from runai.streams.contexts import Trust
    from runai.streams.keepalive import Keepalive

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)
TIMEOUT_S = 10.0
# coming back: the pauses, how long one attempt may take, how much longer than the server waits
RETURN_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)
RETURN_ATTEMPT_S = 3.0
RETURN_MARGIN_S = 5.0


class Client:
    """A blocking client. Every method may be called from any thread, several at once.

    `unix_path`: a Unix socket, instead of host and port. `token`: the server's, where it asks for
    one. `trust`: which certificate to believe; None: no TLS. `observer`: only looks on, the server
    does not wait for it to leave. `timeout_s`: for connecting and for short answers; a request may
    take as long as it takes. `backoff_s`: the pauses between attempts to connect again.
    `keepalive`: when a silent server is given up, where it keeps what is open.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 50006,
        *,
        unix_path: Path | None = None,
        token: str = "",
        trust: Trust | None = None,
        packet_size: int = 1024,
        observer: bool = False,
        timeout_s: float = TIMEOUT_S,
        backoff_s: Sequence[float] = BACKOFF_S,
        keepalive: Keepalive = KEEPALIVE,
    ) -> None:
        self._server_at = Address(host, port, unix_path, trust)
        self._packet_size = packet_size
        self._hello = Hello(
            protocol=PROTOCOL_VERSION,
            client=f"runai.client {__version__}",
            observer=observer,
            token=token or None,
            session=None if observer else os.urandom(16).hex(),
        )
        self._timeout_s = timeout_s
        self._backoff_s = tuple(backoff_s)
        self._keepalive = keepalive
        self._closing = threading.Event()
        self._kept = NOTHING  # what links that broke have left; whoever is connecting has it
        self._changed = threading.Condition()  # guards the four below
        self._connecting = False
        self._returning: threading.Thread | None = None
        self._link: Link | None = None
        self._server: HelloEvent | None = None

    def connect(self) -> HelloEvent:
        """Connect if that is not done yet; what the server said of itself on connecting.

        Raises NoServer if there is none, NotTrusted if it is another one than it should be, and
        what the server refuses us with.
        """
        self._alive_link()
        with self._changed:
            assert self._server is not None  # noqa: S101 (for mypy: there was a link just now)
            return self._server

    def generate(self, request: GenerationRequest) -> Answers:
        """Send a request and follow it. Raises ConnectionLost, here and while iterating."""
        return self._alive_link().submit(request, self.cancel)

    def cancel(self, request_id: str) -> None:
        """End one of our own requests at its next step; it still gets its last answer.

        Takes no lock: safe in a signal handler.
        """
        told = None
        while (link := self._link) is not told and link is not None:  # it may change meanwhile
            link.cancel(request_id)
            told = link

    def models(self) -> list[ModelInfo]:
        """The server's catalogue; waits for a server that is still starting."""
        return self.listing().models

    def listing(self) -> Models:
        """The server's catalogue, and what lies beside it and cannot be used."""
        return self._alive_link().ask(ListModels(), "models", None)  # type: ignore[return-value]

    def status(self) -> Status:
        """What the server is doing."""
        return self._alive_link().ask(GetStatus(), "status", self._timeout_s)  # type: ignore[return-value]

    def close(self) -> None:
        """Leave: open requests are canceled by the server. Idempotent."""
        self._closing.set()
        with self._changed:
            self._changed.wait_for(lambda: not self._connecting)
            link, returning = self._link, self._returning
        if returning is not None:
            returning.join()
        if link is not None:
            link.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    # --- connecting ------------------------------------------------------------------

    def _alive_link(self) -> Link:
        """The link in use, or a new one; one thread makes it while the others wait."""
        with self._changed:
            self._changed.wait_for(lambda: not self._connecting)
            dead = self._link
            if dead is not None and dead.is_alive:
                return dead
            self._connecting = True
        try:
            if dead is not None:
                dead.close()
            return self._connect_patiently(() if dead is None else self._backoff_s)
        except BaseException:
            self._end_connecting()
            raise

    def _end_connecting(self) -> Kept:
        """There is a link now, or there could be none; what was left for it."""
        with self._changed:
            kept, self._kept = self._kept, NOTHING
            self._connecting = False
            self._changed.notify_all()
            return kept

    def _connect_patiently(self, pauses: Sequence[float]) -> Link:
        for pause in pauses:
            try:
                return self._connect()
            except ConnectionLost:
                self._closing.wait(pause)
        return self._connect()

    def _connect(self, timeout_s: float | None = None) -> Link:
        """A new link, which is in use from now on; ends the connecting."""
        if self._closing.is_set():
            raise ConnectionLost("This client has been closed.", hint="Make a new one.")
        stream = self._server_at.connect(timeout_s or self._timeout_s)
        on_end = None if self._hello.session is None else self._ended
        link = Link(stream, self._packet_size, on_end, self._kept, self._keepalive)
        try:
            server = link.ask(self._hello, "hello", self._timeout_s)
            assert isinstance(server, HelloEvent)  # noqa: S101 (for mypy: asked for by kind)
            self._adopt(link, server)
        except BaseException:
            link.close()
            self._kept = link.kept
            raise
        return link

    def _adopt(self, link: Link, server: HelloEvent) -> None:
        """Raises ConnectionLost if it has ended already, with what it was to go on with."""
        with self._changed:
            if link.is_left:
                raise ConnectionLost("The connection broke again at once.")
            self._link, self._server = link, server
            self._end_connecting()

    # --- coming back -----------------------------------------------------------------

    def _ended(self, link: Link, broke: bool) -> bool:
        """A link did, with requests open: whether somebody goes on with them. On its thread.

        From here on nobody else connects, so the link must not be known to be dead before.
        """
        with self._changed:
            if self._link is not link:  # nobody uses it yet: who is making it makes another one
                return True
            if not broke or self._closing.is_set():
                return False
            thread = threading.Thread(
                target=self._come_back, args=(link, self._returning), name="runai-client-returning"
            )
            try:
                thread.start()
            except RuntimeError:  # there is no thread to be had
                return False
            self._connecting, self._returning = True, thread
            return True

    def _come_back(self, broken: Link, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()  # it has come back, and has nothing left to wait for
        broken.close()
        self._kept = broken.kept
        until = time.monotonic() + broken.resume_s + RETURN_MARGIN_S
        link, why = None, _not_back(ConnectionLost("Something went wrong here."))
        try:
            link = self._connect_until(until)
        except RunAIError as error:
            why = _not_back(error)
        finally:
            if link is None:
                self._end_connecting().let_down(ErrorBody.of(why))
            else:
                link.cancel_again()

    def _connect_until(self, until: float) -> Link:
        pauses = itertools.chain(RETURN_PAUSES_S, itertools.repeat(RETURN_PAUSES_S[-1]))
        while True:
            try:
                return self._connect(min(self._timeout_s, RETURN_ATTEMPT_S))
            except NotTrusted:
                raise
            except (ConnectionLost, TooManyConnections):
                pause = next(pauses)
                if self._closing.is_set() or time.monotonic() + pause > until:
                    raise
            self._closing.wait(pause)


def _not_back(error: RunAIError) -> ConnectionLost:
    return ConnectionLost(
        f"The connection broke and could not be made again, so the request is lost: "
        f"{error.message}",
        hint=error.hint,
    )
