"""How a stream begins: what a web browser was made to send is not listened to.

Any page may have its browser send bytes to any port of this computer: an HTTP request with a
method and a body of the page's choice, or a TLS handshake with a ticket of its choice. Read as
packets, the first message of these is rubbish, but what comes after it need not be. So a stream
must begin as a message can: with an object, or what else JSON and people make of one by mistake,
but not with a letter, a digit or a sign that names of HTTP's methods are made of, nor with white
space. Only control packets, which are letters, may come before. Pure.
"""

from __future__ import annotations

from runai.errors import NotOffered
from runai.wire.packets import CANCEL, QUIT

# an object, a list, a text; an empty message; a byte order mark and all that is not ASCII
ALLOWED = frozenset(b'{["\0') | frozenset(range(0x80, 0x100))
TLS_HANDSHAKE = b"\x16"  # RFC 8446, 5.1


class Opening:
    """The first bytes of one stream."""

    def __init__(self) -> None:
        self.is_known = False  # that it is one to go on with

    def hear(self, data: bytes) -> None:
        """More of the stream; raises NotOffered for one that must not go on."""
        begun = b"" if self.is_known else data.lstrip(CANCEL + QUIT)
        if not begun:
            return
        if begun.startswith(TLS_HANDSHAKE):
            raise NotOffered(
                "This server does not speak TLS.",
                hint="Connect without it, or start the server with --tls-cert and --tls-key.",
            )
        if begun[0] not in ALLOWED:
            raise NotOffered(
                "A connection begins with a JSON object, and nothing that a web page could send.",
                hint="Speak this server's protocol: docs/protocol.md.",
            )
        self.is_known = True
