"""Servers on real sockets over scripted engines."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runai.jobs.errands import Words
from runai.jobs.service import Service
from runai.testing.scripted import ScriptedEngine
from runai.transports.gate import Gate, Keys
from runai.transports.listener import bind, bind_unix
from runai.transports.socket_server import SocketOptions, SocketServer, StopReason
from tests.transports.clients import PATIENCE_S, RawClient


class Running:
    """A server that runs on a thread of its own."""

    def __init__(
        self,
        engine: ScriptedEngine,
        make_engine: Callable[[], ScriptedEngine],
        listeners: list[socket.socket],
        options: SocketOptions,
        gate: Gate,
        **of_service: Any,
    ) -> None:
        self.engine = engine
        self.gate = gate
        self.service = Service(make_engine, **of_service)
        self.server = SocketServer(listeners, self.service, options, gate)
        self.port = self.server.port
        self.packet_size = options.packet_size
        self._reason: StopReason | None = None
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self.service.start()
        self._thread.start()

    def _run(self) -> None:
        self._reason = self.server.run()

    def client(self) -> RawClient:
        return RawClient(self.port, self.packet_size)

    def reason(self) -> StopReason:
        """Why it ended; waits for that."""
        self._thread.join(PATIENCE_S)
        assert self._reason is not None, "the server has not ended"
        return self._reason

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        self.engine.gate.open()
        self.engine.loading_gate.open()
        self.server.stop()
        self._thread.join(2 * PATIENCE_S)
        self.service.stop()
        assert not self._thread.is_alive()


Serve = Callable[..., Running]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Makes running servers, which are ended with the test; no thread may be left then."""
    before = set(threading.enumerate())
    made: list[Running] = []

    def make(
        engine: ScriptedEngine | None = None,
        *,
        make_engine: Callable[[], ScriptedEngine] | None = None,
        host: str = "127.0.0.1",
        unix_path: Path | None = None,
        keys: Keys = Keys(),  # noqa: B008 (frozen)
        resume_s: float = 30.0,
        conversion: Words | None = None,
        **options: Any,
    ) -> Running:
        engine = engine or ScriptedEngine()
        options = {"keep_alive": True, "write_deadline_s": 2.0, **options}
        used = make_engine or (lambda: engine)
        chosen = SocketOptions(**options)
        listeners = (
            bind(host, 0, packet_size=chosen.packet_size)
            if unix_path is None
            else bind_unix(unix_path)
        )
        of_service = {"resume_s": resume_s, "conversion": conversion}
        running = Running(engine, used, listeners, chosen, Gate(keys), **of_service)
        made.append(running)
        running.start()
        return running

    yield make
    for running in made:
        running.end()
    assert set(threading.enumerate()) - before == set()
