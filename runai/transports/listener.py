"""The listening sockets, opened before anything heavy is imported.

Rules: standard library only. `localhost` means both loopbacks, on one port. A listener whose
clients may not be seen (see `naive`) limits its segments, which must happen before they connect.
A supervisor, systemd say, may have opened the sockets before the server was started: it goes on
listening when the server ends, and starts it again for the next client (sd_listen_fds(3)).
A Unix socket is a file that only its owner may use, and that goes when it is closed; one that a
killed server left is taken over, one that somebody listens on is not.
Does not accept: that is `socket_server`'s.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from runai.errors import AddressInUse, InvalidSetting
from runai.transports import naive, peer

LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
TCP = (socket.AF_INET, socket.AF_INET6)
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
FREE_PORT_ATTEMPTS = 20
FIRST_INHERITED = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START
OTHERS = 0o177  # everything but the owner's reading and writing
Place = tuple[int, str]  # family, numeric address


class UnixListener(socket.socket):
    """A Unix socket of our own making: its file goes when it is closed."""

    file: tuple[int, int] | None = None  # device and number, once there is one

    def close(self) -> None:
        path = Path(self.getsockname()) if self.fileno() >= 0 else None
        if path is not None:
            with suppress(OSError):  # somebody removed it already
                if _number_of(path) == self.file:  # and has not put another one there
                    path.unlink()
        super().close()


def _number_of(path: Path) -> tuple[int, int]:
    there = path.lstat()
    return there.st_dev, there.st_ino


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


def inherited(environ: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets that a supervisor has handed to this process, if any.

    Raises InvalidSetting for what are no listening sockets.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environ.get("LISTEN_FDS", "0"))
    return [_adopt(number) for number in range(FIRST_INHERITED, FIRST_INHERITED + count)]


def _adopt(number: int) -> socket.socket:
    os.set_inheritable(number, False)
    adopted = socket.socket(fileno=number)
    if not adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        adopted.close()
        raise InvalidSetting(
            f"File descriptor {number} is no listening socket.",
            hint="Have the supervisor listen on stream sockets, and not accept on them.",
        )
    return adopted


def bind_unix(path: Path, *, backlog: int = 128) -> list[socket.socket]:
    """A listening Unix socket at `path`, for this user alone.

    Raises AddressInUse if a server listens there, InvalidSetting if none can.
    """
    try:
        return [_bind_unix(path, backlog)]
    except OSError as error:
        raise InvalidSetting(
            f"{path} cannot be listened on: {error.strerror or error}.",
            hint="Name a path of at most 107 bytes in a folder that you may write to.",
            field="listen",
        ) from None


def _bind_unix(path: Path, backlog: int) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise OSError("this system has no Unix sockets")
    _take_over(path)
    with ExitStack() as undo:
        listener = undo.enter_context(UnixListener(socket.AF_UNIX, socket.SOCK_STREAM))
        mask = os.umask(OTHERS)  # nobody else may connect, not even for a moment
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.file = _number_of(path)
        listener.listen(backlog)
        undo.pop_all()
    return listener


def _take_over(path: Path) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file of that name")
    except FileNotFoundError:
        return
    # of another type than the server's: it is not let in, so no client seems to come and go
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:  # nobody has it open
            path.unlink()
            return
    raise AddressInUse(
        f"A server listens on {path} already.",
        hint="Stop it, or choose another --listen.",
        field="listen",
    )


def address_of(listener: socket.socket) -> tuple[str, int]:
    """Where it listens: a host and port, or a path and 0."""
    name = listener.getsockname()
    return (name, 0) if isinstance(name, str) else (str(name[0]), int(name[1]))


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
