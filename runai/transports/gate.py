"""Who may come in: the token, the certificate, and what becomes of those who guess.

Theory of operation. `Keys` are what it takes to come in; they are replaced as a whole, so a
connection sees either the old ones or the new ones, and those that are in stay in. A wrong
token is answered late, twice as late each time it comes from the same origin, up to
`MOST_DELAY_S`; an origin that gives none for `FORGIVEN_S` starts anew. So whoever guesses gets
some answers a minute, on as many connections as one origin may have. Tokens are compared as
digests, in a time that tells nothing about them.

`ssl` is imported only where TLS is spoken, and what computes digests when somebody is let in: both
load OpenSSL, for which listening would have to wait. Knows no messages.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runai.errors import TlsRequired, TooSlow, Unauthorized
from runai.streams.plain import PlainStream, Stream
from runai.transports.opening import TLS_HANDSHAKE

if TYPE_CHECKING:
    import ssl

FIRST_DELAY_S, MOST_DELAY_S = 0.25, 8.0
FORGIVEN_S = 600.0
MAX_ORIGINS = 4096


@dataclass(frozen=True)
class Keys:
    """`token`: empty: none is asked for. `tls`: None: bytes go as they are."""

    token: str = ""
    tls: ssl.SSLContext | None = None


@dataclass
class _Guesses:
    """Wrong tokens of one origin, and when it last gave one."""

    count: int
    last: float


class Gate:
    """Every method may be called from any thread."""

    def __init__(self, keys: Keys = Keys()) -> None:
        self._keys = keys
        self._lock = threading.Lock()  # guards the guesses
        self._guesses: OrderedDict[str, _Guesses] = OrderedDict()

    def change(self, keys: Keys) -> None:
        """New keys for those who come from now on."""
        self._keys = keys

    @property
    def asks_token(self) -> bool:
        return bool(self._keys.token)

    @property
    def has_tls(self) -> bool:
        return self._keys.tls is not None

    @property
    def is_open(self) -> bool:
        """Whether everybody may come in who can connect."""
        return not self.asks_token and not self.has_tls

    def describe(self) -> str:
        """What it takes to come in, in words."""
        needs = [
            what for what, needed in (("TLS", self.has_tls), ("a token", self.asks_token)) if needed
        ]
        return f"with {' and '.join(needs)}" if needs else "for all who reach it, without a token"

    def secured(self, sock: socket.socket, timeout_s: float) -> Stream:
        """The connection as a stream, after the TLS handshake where there is one to make.

        Raises TlsRequired for a client that does not begin one, TooSlow, ssl.SSLError, OSError.
        """
        plain = PlainStream(sock)
        context = self._keys.tls
        if context is None or sock.family == getattr(socket, "AF_UNIX", None):
            return plain
        from runai.streams.tls import TlsStream

        until = time.monotonic() + timeout_s
        first = plain.recv(timeout_s)
        if first and first[:1] != TLS_HANDSHAKE:
            raise TlsRequired("This server speaks TLS, and what came was not encrypted.")
        stream = TlsStream(plain, context)
        try:
            stream.handshake(until - time.monotonic(), first or b"")
        except TimeoutError:
            raise TooSlow(f"The TLS handshake took longer than {timeout_s:g} s.") from None
        return stream

    def check(self, origin: str, token: str) -> None:
        """Raises Unauthorized unless it is the right one."""
        if _is_same(token, self._keys.token):
            return
        with self._lock:
            self._guessed(origin, time.monotonic())
        raise Unauthorized("The token is wrong." if token else "This server wants a token.")

    def delay_s(self, origin: str) -> float:
        """How long the answer to a wrong token is to be held back."""
        with self._lock:
            guesses = self._guesses.get(origin)
        return min(FIRST_DELAY_S * 2 ** (guesses.count - 1), MOST_DELAY_S) if guesses else 0.0

    def _guessed(self, origin: str, now: float) -> None:
        guesses = self._guesses.pop(origin, None)
        if guesses is None or now - guesses.last > FORGIVEN_S:
            guesses = _Guesses(0, now)
        guesses.count, guesses.last = min(guesses.count + 1, 16), now
        self._guesses[origin] = guesses
        if len(self._guesses) > MAX_ORIGINS:  # the one that guessed least lately
            self._guesses.popitem(last=False)


def _is_same(token: str, other: str) -> bool:
    import hashlib
    import hmac

    one, two = (hashlib.sha256(t.encode("utf-8", "surrogatepass")).digest() for t in (token, other))
    return hmac.compare_digest(one, two)
