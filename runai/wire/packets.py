"""Bodies as packets: padding, the end-of-message packet and the two control packets.

A body is cut into packets of one fixed size, the last padded with NUL bytes; a packet of
nothing but NUL (EOM) ends the message. Outside a message, a packet of only `x` means quit and
one of only `c` means cancel. JSON text holds no NUL and starts with neither letter, so
nothing is ambiguous; `pad` refuses a body for which it would be.
Does not read packets: `connection` does.
"""

from __future__ import annotations

NUL = b"\0"
QUIT = b"x"
CANCEL = b"c"


def packet_of(byte: bytes, packet_size: int) -> bytes:
    """One packet that repeats a byte: EOM of NUL, or a control packet of QUIT or CANCEL."""
    if packet_size < 1:
        raise ValueError(f"a packet has at least 1 byte, not {packet_size}")
    return byte * packet_size


def pad(body: bytes, packet_size: int) -> bytes:
    """The body's packets without the EOM; ValueError for a body that could not be read back."""
    if NUL in body:
        raise ValueError("a body must not hold a NUL byte")
    if body[:packet_size] in (packet_of(QUIT, packet_size), packet_of(CANCEL, packet_size)):
        raise ValueError("a body must not start like a control packet")
    missing = -len(body) % packet_size
    return body + NUL * missing if missing else body


def encode(body: bytes, packet_size: int) -> bytes:
    """A whole message: the body's packets and the EOM."""
    return pad(body, packet_size) + packet_of(NUL, packet_size)
