"""A server's life from listening to its exit code: start, serve, stop.

How it ends: the last client leaves, or nobody comes; or a signal comes, then no new work is
taken, what is being drawn gets the grace time and the rest is canceled, the answers are
written, and the exit code tells whether something was lost. A second signal ends the grace.

SIGHUP, where there are a token or certificates to read, has them read anew. Who is in stays in,
and files that are wrong change nothing: they are an error in the log.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

from runai.cli import arenas, keys, logs, wiring
from runai.cli.exit_codes import SIGNAL_BASE, ExitCode
from runai.cli.signals import ENDING, caught
from runai.errors import InvalidSetting, RunAIError
from runai.jobs.engine import Engine
from runai.jobs.service import Service
from runai.settings import Settings
from runai.transports.gate import Gate
from runai.transports.socket_server import SocketServer, StopReason

# not on every system
RELOADING = tuple(filter(None, [getattr(signal, "SIGHUP", None)]))
log = logging.getLogger("runai")


def serve(
    listeners: Sequence[socket.socket],
    settings: Settings,
    make_engine: Callable[[], Engine] | None,
    gate: Gate,
) -> int:
    """Serve on these sockets until the end; the exit code.

    Raises the RunAIError that made the engine unusable, when one did.
    """
    arenas.share()
    with logs.kept(settings.log_level, settings.log_format, prompts=settings.log_prompts):
        return _serve(listeners, settings, make_engine, gate)


def _serve(
    listeners: Sequence[socket.socket],
    settings: Settings,
    make_engine: Callable[[], Engine] | None,
    gate: Gate,
) -> int:
    service = wiring.service(settings, make_engine, lambda error: ending.fail(error))
    server = SocketServer(listeners, service, wiring.socket_options(settings), gate)
    ending = Ending(service, server, settings.grace_s)

    def react(number: int) -> None:
        if number in RELOADING:
            reload(gate, settings)
        else:
            ending.signal(number)

    # without anything to read, a closed terminal ends the server as ever
    reloading = () if gate.is_open else RELOADING
    try:
        with caught(react, numbers=(*ENDING, *reloading)):
            service.start()
            try:
                _say_where(server, settings, gate)
                reason = server.run()
            finally:
                service.stop()
    finally:
        ending.join()
    return ending.exit_code(reason)


def reload(gate: Gate, settings: Settings) -> None:
    """Read the token and the certificates again."""
    try:
        gate.change(keys.read(settings))
    except InvalidSetting as error:
        log.error("The token and certificates stay as they were: %s", error)
    else:
        log.info("The token and certificates were read again.")
        _warn_of_exposed(settings)


def _say_where(server: SocketServer, settings: Settings, gate: Gate) -> None:
    _warn_of_exposed(settings)
    if settings.listen:
        log.info("Listening on %s.", settings.listen)
        return
    log.info("Listening on %s, port %d, %s.", settings.host, server.port, gate.describe())
    if not settings.is_local:
        for warning in _dangers(gate):
            log.warning("--insecure: %s.", warning)


def _warn_of_exposed(settings: Settings) -> None:
    for file in filter(keys.is_exposed, keys.secret(settings)):
        log.warning("%s can be read by other users of this computer: chmod 600 it.", file)


def _dangers(gate: Gate) -> Iterator[str]:
    """What beyond this computer `--insecure` leaves open."""
    if not gate.asks_token:
        yield "everybody who reaches this server may use it, for there is no token"
    if not gate.has_tls:
        yield "what is sent can be read and changed on its way, for there is no TLS"


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
