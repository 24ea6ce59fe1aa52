"""The listening sockets, opened before anything heavy is imported.

Rules: standard library only. `localhost` means both loopbacks, on one port. A listener whose
clients may not be seen (see `naive`) limits its segments, which must happen before they connect.
Does not accept: that is `socket_server`'s.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import ExitStack

from runai.errors import AddressInUse, InvalidSetting
from runai.transports import naive, peer

LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
FREE_PORT_ATTEMPTS = 20
Place = tuple[int, str]  # family, numeric address


def bind(
    host: str, port: int, *, backlog: int = 128, packet_size: int = 1024
) -> list[socket.socket]:
    """Listening sockets for a host and port; port 0 takes one that is free everywhere.

    Raises AddressInUse, or InvalidSetting for a host or port that cannot be listened on.
    """
    places = _places(host)
    for _ in range(FREE_PORT_ATTEMPTS if port == 0 else 1):
        try:
            return _bind_all(places, port, backlog, packet_size)
        except OSError as error:
            failure = error
            if error.errno != errno.EADDRINUSE:
                break
    raise _explained(failure, host, port) from None


def _places(host: str) -> list[Place]:
    if host == "localhost":
        return list(LOOPBACKS)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise InvalidSetting(
            f"The host {host!r} is unknown.",
            hint="Use localhost, or an address of this computer.",
            field="host",
        ) from None
    return list(dict.fromkeys((int(family), str(address[0])) for family, _, _, _, address in found))


def _bind_all(
    places: list[Place], port: int, backlog: int, packet_size: int
) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    with ExitStack() as undo:
        for place in places:
            try:
                listener = _bind_one(place, port, backlog, packet_size)
            except OSError as error:
                if listeners and error.errno in NOT_HERE:  # a computer without IPv6
                    continue
                raise
            listeners.append(undo.enter_context(listener))
            port = listener.getsockname()[1]
        undo.pop_all()
    return listeners


def _bind_one(place: Place, port: int, backlog: int, packet_size: int) -> socket.socket:
    family, address = place
    with ExitStack() as undo:
        listener = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        # before `listen`, so that nobody connects without it; only then can it be asked for
        naive.limit_segments(listener, packet_size)
        listener.listen(backlog)
        if ipaddress.ip_address(address).is_loopback and peer.can_look(listener):
            naive.unlimit_segments(listener)
        undo.pop_all()
    return listener


def _explained(error: OSError, host: str, port: int) -> AddressInUse | InvalidSetting:
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(f"Port {port} on {host} is in use.", field="port")
    field = "port" if isinstance(error, PermissionError) else "host"
    return InvalidSetting(
        f"{host}, port {port}, cannot be listened on: {error.strerror}.", field=field
    )
