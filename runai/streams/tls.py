"""A stream inside TLS (RFC 8446, RFC 5246), safe to read and write on two threads.

Theory of operation. An `ssl.SSLSocket` must not be used by two threads at once, because
OpenSSL's objects may not. So TLS runs here between two memory buffers (`ssl.MemoryBIO`), and
the socket is read and written beside it: what came is put in and decrypted under a lock, what
is to go is encrypted under the lock and sent outside of it. So neither direction waits for
the other's network. After the handshake, which one thread does alone, only the thread that
writes sends: what reading produces (the answer to a key update) goes out before what is
written next, which is what the standard asks for. TLS 1.2's renegotiation is off.

That a stream ends without TLS's own goodbye counts as its end: whether a message was cut short
is known to `wire`, by its end marker.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time

from runai.streams.keepalive import Keepalive
from runai.streams.plain import PlainStream

RECORDS_BYTES = 64 * 1024  # what is encrypted and sent at a time
# of answers that TLS itself wants to give to what is read: one to a key update is some bytes
MAX_PENDING_BYTES = 64 * 1024


class TlsStream:
    """TLS over a plain stream. `handshake` comes first."""

    def __init__(
        self, plain: PlainStream, context: ssl.SSLContext, *, server_name: str | None = None
    ) -> None:
        """`server_name`: whom to reach, for a client that checks names."""
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._lock = threading.Lock()  # guards the two above and the TLS object below
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=context.protocol == ssl.PROTOCOL_TLS_SERVER,
            server_hostname=server_name,
        )

    def handshake(self, timeout_s: float, first: bytes = b"") -> None:
        """Agree on keys. `first`: what was read from the plain stream already.

        Raises TimeoutError, ssl.SSLError (also for a certificate that is not trusted) or OSError.
        """
        until = time.monotonic() + timeout_s
        self._incoming.write(first)
        while not self._shake():
            if not self._feed_within(until):
                raise TimeoutError("The TLS handshake took too long.")

    def _shake(self) -> bool:
        """Go as far as possible; whether it is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:  # also the alert that says why not
            self._plain.sendall(self._outgoing.read())
        return True

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's certificate (DER), if it has shown one."""
        return self._tls.getpeercert(binary_form=True)

    def recv(self, timeout_s: float | None = None) -> bytes | None:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while (data := self._decrypted()) is None:
            if not self._feed_within(until):
                return None
        return data

    def _feed_within(self, until: float | None) -> bool:
        """Take in what comes, or the end; False when nothing does by then."""
        came = self._plain.recv(None if until is None else until - time.monotonic())
        if came is None:
            return False
        with self._lock:
            if came:
                self._incoming.write(came)
            else:
                self._incoming.write_eof()
        return True

    def _check_pending(self) -> None:
        """With the lock held. Only writing takes these away, and there may be nothing to write."""
        if self._outgoing.pending > MAX_PENDING_BYTES:
            raise ssl.SSLError("the peer asks for more of TLS than anybody needs")

    def _decrypted(self) -> bytes | None:
        """What can be read; empty at the end, None while more bytes are needed."""
        parts: list[bytes] = []
        with self._lock:
            while True:
                self._check_pending()
                try:
                    part = self._tls.read(RECORDS_BYTES)
                except ssl.SSLWantReadError:
                    return b"".join(parts) or None
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    return b"".join(parts)
                if not part:
                    return b"".join(parts)
                parts.append(part)

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), RECORDS_BYTES):
            with self._lock:
                self._tls.write(view[start : start + RECORDS_BYTES])
                records = self._outgoing.read()
            self._plain.sendall(records)

    def watch(self, keepalive: Keepalive) -> None:
        self._plain.watch(keepalive)

    @property
    def is_here(self) -> bool:
        return self._plain.is_here

    def end(self) -> None:
        with self._lock:
            # it would wait for the peer's goodbye, which need not come
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            goodbye = self._outgoing.read()
        self._plain.sendall(goodbye)
        self._plain.end()

    def shut(self) -> None:
        self._plain.shut()

    def close(self) -> None:
        self._plain.close()
