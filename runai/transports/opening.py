"""How a stream begins: what a web browser was made to send is not listened to.

Any page may have its browser send bytes to any port of this computer: an HTTP request with a
body of the page's choice, or a TLS handshake with a ticket of its choice. Read as packets, the
first message of these is rubbish, but what comes after it need not be. So a stream that begins
like one of the two ends there. Pure.
"""

from __future__ import annotations

from runai.errors import NotOffered

HTTP = tuple(
    f"{method} ".encode()
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
)  # RFC 9110, RFC 5789
TLS_HANDSHAKE = b"\x16"  # RFC 8446, 5.1
LONGEST = max(map(len, HTTP))


class Opening:
    """The first bytes of one stream."""

    def __init__(self) -> None:
        self._heard = b""

    def hear(self, data: bytes) -> None:
        """More of the stream; raises NotOffered for one that must not go on."""
        if len(self._heard) >= LONGEST:
            return
        self._heard += data[:LONGEST]
        if self._heard.startswith(HTTP):
            raise NotOffered(
                "This is no web server, and pages are not listened to.",
                hint="Speak its protocol: docs/protocol.md.",
            )
        if self._heard.startswith(TLS_HANDSHAKE):
            raise NotOffered(
                "This server does not speak TLS.",
                hint="Connect without it, or start the server with --tls-cert and --tls-key.",
            )
