"""A server's life from listening to its exit code: start, serve, stop.

How it ends: the last client leaves, or nobody comes; or a signal comes, then no new work is
taken, what is being drawn gets the grace time and the rest is canceled, the answers are
written, and the exit code tells whether something was lost. A second signal ends the grace.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence

from runai.cli import logs, wiring
from runai.cli.exit_codes import SIGNAL_BASE, ExitCode
from runai.cli.signals import caught
from runai.errors import RunAIError
from runai.jobs.engine import Engine
from runai.jobs.service import Service
from runai.settings import Settings
from runai.transports.socket_server import SocketServer, StopReason

log = logging.getLogger("runai")


def serve(
    listeners: Sequence[socket.socket],
    settings: Settings,
    make_engine: Callable[[], Engine] | None,
) -> int:
    """Serve on these sockets until the end; the exit code.

    Raises the RunAIError that made the engine unusable, when one did.
    """
    logs.start(settings.log_level)
    service = wiring.service(settings, make_engine, lambda error: ending.fail(error))
    server = SocketServer(listeners, service, wiring.socket_options(settings))
    ending = Ending(service, server, settings.grace_s)
    try:
        with caught(ending.signal):
            service.start()
            log.info("Listening on %s, port %d.", settings.host, server.port)
            try:
                reason = server.run()
            finally:
                service.stop()
    finally:
        ending.join()
    return ending.exit_code(reason)


class Ending:
    """Why and how the server stops. `signal` runs on one thread, `fail` on the worker's."""

    def __init__(self, service: Service, server: SocketServer, grace_s: float) -> None:
        self._service = service
        self._server = server
        self._grace_s = grace_s
        self._first_signal: int | None = None
        self._lost = False
        self._fatal: RunAIError | None = None
        self._drainer = threading.Thread(target=self._drain, name="runai-drain")

    def fail(self, error: RunAIError) -> None:
        """The engine is unusable: stop."""
        self._fatal = error
        self._server.stop()

    def signal(self, number: int) -> None:
        """The first one starts the grace time, another one ends it."""
        if self._first_signal is None:
            self._first_signal = number
            log.info("Stopping: what is being drawn has %g s.", self._grace_s)
            self._start_draining()
        else:
            self._cancel_after(0.0)

    def _start_draining(self) -> None:
        try:
            self._drainer.start()
        except RuntimeError:  # no thread can be had: then no second signal is heard meanwhile
            self._drain()

    def join(self) -> None:
        if self._drainer.ident is not None:
            self._drainer.join()

    def exit_code(self, reason: StopReason) -> int:
        if self._fatal is not None:
            raise self._fatal
        if self._first_signal is not None:
            return SIGNAL_BASE + self._first_signal if self._lost else ExitCode.OK
        return ExitCode.NOBODY_CAME if reason is StopReason.NOBODY_CAME else ExitCode.OK

    def _drain(self) -> None:
        self._cancel_after(self._grace_s)
        self._server.stop()

    def _cancel_after(self, grace_s: float) -> None:
        if not self._service.drain(grace_s):
            self._lost = True
