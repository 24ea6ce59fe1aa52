"""The raw-socket server: takes connections, and knows when to end.

Theory of operation. `run` waits on one thread for newcomers, for the wake-up end of a
socket pair, and for the time by which somebody must have come, or come back; nothing else
wakes it. Each connection has its own threads, which tell the `Roll` that they ended and wake
`run`, which joins them and asks the roll whether that was a reason to end. It is none while a
client whose connection broke is waited for. At the end the listeners are closed first;
connections may still write the answers of what is done, until a deadline, and then all of them
are closed and joined.

It does not wait for jobs to be drawn: `drain` the service before `stop`, if they are to be.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import selectors
import socket
import time
from collections.abc import Callable, Sequence

from runai.errors import RunAIError, TooManyConnections, Unauthorized
from runai.jobs.service import Service
from runai.transports import listener
from runai.transports.connection import ClientConnection
from runai.transports.gate import Gate
from runai.transports.last_words import last_words
from runai.transports.options import SocketOptions
from runai.transports.origin import Origin, origin_of
from runai.transports.roll import Roll, StopReason

__all__ = ["SocketOptions", "SocketServer", "StopReason"]

PAUSE_S = 0.1
log = logging.getLogger(__name__)


class SocketServer:
    """Serves on listening sockets, which it owns from now on. `gate`: who may come in."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        service: Service,
        options: SocketOptions,
        gate: Gate | None = None,
    ) -> None:
        self._listeners = listeners
        self._service = service
        self._options = options
        self._gate = gate or Gate()
        self._stopping = False
        self._is_short = False  # there was no room for the last newcomer
        self._woken, self._waker = socket.socketpair()
        for sock in (*listeners, self._woken, self._waker):
            sock.setblocking(False)
        self.address = listener.address_of(listeners[0])

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self.address[1])

    def run(self) -> StopReason:
        """Serve on this thread until there is a reason to end; every thread is joined then."""
        wait_s = self._options.first_client_timeout_s
        self._roll: Roll[ClientConnection] = Roll(
            keep_alive=self._options.keep_alive,
            idle_exit_s=self._options.idle_exit_s,
            first_client_by=None if wait_s is None else time.monotonic() + wait_s,
        )
        self._due_in: float | None = None  # seconds, for `Service.expire`
        try:
            return self._accept_until_end()
        finally:
            self._close()

    def stop(self) -> None:
        """Make `run` return, also if it runs only later. From any thread or signal handler."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        # full: a wake-up is on its way; closed: `run` has returned
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def _accept_until_end(self) -> StopReason:
        with selectors.DefaultSelector() as selector:
            for listening in self._listeners:
                accept = functools.partial(self._accept, listening)
                selector.register(listening, selectors.EVENT_READ, accept)
            selector.register(self._woken, selectors.EVENT_READ, self._tidy)
            while (reason := self._reason_to_end()) is None:
                for key, _ in selector.select(self._time_left()):
                    react: Callable[[], None] = key.data
                    react()
        log.info("The socket server ends: %s.", reason.value)
        return reason

    def _reason_to_end(self) -> StopReason | None:
        if self._stopping:
            return StopReason.STOPPED
        self._due_in = self._service.expire()
        if self._due_in is not None:  # somebody may come back
            return None
        return self._roll.reason_to_end(time.monotonic())

    def _time_left(self) -> float | None:
        """Until something is to be done though nobody moves; None: for ever."""
        times = (self._due_in, self._roll.time_left(time.monotonic()))
        return min((left for left in times if left is not None), default=None)

    def _tidy(self) -> None:
        self._woken.recv(4096)
        for gone in self._roll.take_gone():
            gone.join()

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it left before it was taken
            return
        except OSError as error:  # no file descriptors or memory left for one more, say
            self._warn(f"{error.strerror}.")
            time.sleep(PAUSE_S)  # it waits in the kernel, which would wake us at once again
            return
        try:
            sock.setblocking(True)
            self._options.keepalive.watch(sock)
            self._seat(sock)
        except OSError:  # it left meanwhile
            sock.close()

    def _seat(self, sock: socket.socket) -> None:
        try:
            origin = origin_of(sock)
        except Unauthorized as error:
            self._leave_at_once(sock, error)
            return
        full = self._lack_of_seats(origin)
        if full is not None:
            self._warn(full.message)
        if full is not None and self._has_crowd(origin):
            self._service.counters.count("connections_refused")
            sock.close()  # there are too many even to be told
            return
        connection = ClientConnection(
            sock, origin, self._service, self._options, self._gate, house=self, full=full
        )
        self._roll.enter(connection, counts=connection.is_admitted)
        try:
            connection.start()
        except TooManyConnections as error:
            self._roll.withdraw(connection)
            self._warn(error.message)
            self._leave_at_once(sock, error)
        else:
            self._is_short = full is not None

    def _warn(self, why: str) -> None:
        """Once, until a newcomer is taken again: a crowd is not to fill the log."""
        if not self._is_short:
            log.warning("Clients cannot be taken, for now: %s", why)
        self._is_short = True

    def _leave_at_once(self, sock: socket.socket, error: RunAIError) -> None:
        """Where there can be no thread to wait until the client has read why."""
        self._service.counters.count("connections_refused")
        with contextlib.suppress(OSError):
            sock.send(last_words(error, self._options.packet_size), socket.MSG_DONTWAIT)
        sock.close()

    def _has_crowd(self, origin: Origin) -> bool:
        """Whether too many without a seat are here, in all or from there, to hear one more."""
        present = self._roll.present()
        from_there = sum(m.origin == origin and not m.has_seat for m in present)
        most, most_of_one = self._options.max_connections, self._options.max_connections_per_peer
        return len(present) >= 2 * most or from_there >= most_of_one

    def _lack_of_seats(self, origin: Origin) -> TooManyConnections | None:
        """Why there is no seat for a client from there; None: there is one."""
        taken = [member.origin for member in self._roll.present() if member.has_seat]
        most, most_of_one = self._options.max_connections, self._options.max_connections_per_peer
        if len(taken) >= most:
            said = f"{len(taken)} clients are connected, which is all there may."
        elif taken.count(origin) >= most_of_one:
            said = f"{most_of_one} clients from {origin.name} are connected, as many as may be."
        else:
            return None
        return TooManyConnections(said)

    # What connections tell, on their own threads.

    def admitted(self, connection: ClientConnection) -> None:
        self._roll.count(connection)
        self._wake()

    def observes(self, connection: ClientConnection) -> None:
        self._roll.observe(connection)
        self._wake()

    def left(self, connection: ClientConnection) -> None:
        self._roll.leave(connection)
        self._wake()

    def _close(self) -> None:
        for listening in self._listeners:
            listening.close()
        members = self._roll.present()
        until = time.monotonic() + self._options.write_deadline_s
        for member in members:
            member.finish()
        for member in members:
            member.join(max(until - time.monotonic(), 0.0))
        for member in members:
            member.abort()
        for member in (*members, *self._roll.take_gone()):
            member.join()
        self._woken.close()
        self._waker.close()
