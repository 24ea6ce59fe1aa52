"""What the end of a connection says: has the peer left, or did something between the two break?

A program leaves by saying so, or by ending its stream, which the kernel does for one that was
killed. Anything else is an error. On this computer no network can break, so there a reset means
that the program was killed; from elsewhere it may be some box on the way that forgot about
the connection. Other errors, a broken pipe say, tell only that there is no connection any more.
Standard library only.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from runai.streams.keepalive import UNIX

BREAKS = {
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EHOSTUNREACH,
    errno.EHOSTDOWN,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.ENETRESET,
}
LOOPBACKS = ("127.", "::ffff:127.")


def is_broken(faults: Iterable[int | None], *, is_here: bool) -> bool:
    """Whether the peer may still be there. `faults`: the errno that each thread met, if any.

    (An exception would keep all that its thread had at hand in memory, pictures among it.)
    """
    return not is_here and any(fault in BREAKS for fault in faults)


def is_here(sock: socket.socket) -> bool:
    """Whether the peer is on this computer; so too if it has gone already."""
    if sock.family == UNIX:
        return True
    try:
        host = str(sock.getpeername()[0])
    except OSError:
        return True
    return host == "::1" or host.startswith(LOOPBACKS)
