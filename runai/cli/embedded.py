"""A client for a command: of the server that is running, or of one started for the purpose.

The embedded server is the real one, in this process, on a free loopback port and with a token
that nobody else knows: a request goes through the same socket, queue and worker as ever, so
there is one way to draw, not two.
"""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from runai.cli import logs, wiring
from runai.client import Client
from runai.errors import NoServer
from runai.jobs.engine import Engine
from runai.settings import Settings
from runai.transports import listener
from runai.transports.gate import Gate, Keys
from runai.transports.socket_server import SocketServer

LOOPBACK = "127.0.0.1"
# what leads to the server that was not there
PLAIN: dict[str, Any] = {
    "listen": None,
    "token_file": None,
    "tls_cert": None,
    "tls_key": None,
    "tls_client_ca": None,
    "tls": False,
}


@contextmanager
def connected(settings: Settings, make_engine: Callable[[], Engine] | None) -> Iterator[Client]:
    """A connected client: of the running server, else of an embedded one.

    Raises NoServer if the server should be on another computer and is not there.
    """
    with wiring.client(settings) as client:
        if _is_there(client, settings.is_local):
            yield client
            return
    print("No server is running: one is started for this.", file=sys.stderr)
    with embedded(settings, make_engine) as own, wiring.client(own) as client:
        client.connect()
        yield client


def _is_there(client: Client, is_local: bool) -> bool:
    try:
        client.connect()
    except NoServer:
        if not is_local:
            raise
        return False
    return True


@contextmanager
def embedded(settings: Settings, make_engine: Callable[[], Engine] | None) -> Iterator[Settings]:
    """A server in this process; the settings that lead to it. Stopped and joined at the end.

    Its errors reach the client as answers, so its log stays silent but for level debug.
    """
    listeners = listener.bind(LOOPBACK, 0)
    own = replace(
        settings,
        **PLAIN,
        host=LOOPBACK,
        keep_alive=True,
        timeout=False,
        idle_exit_s=0.0,
        token=secrets.token_urlsafe(),
    )
    # an engine that cannot be made needs no more than that: it fails every request
    service = wiring.service(own, make_engine, on_fatal=lambda error: None)
    gate = Gate(Keys(own.token))
    server = SocketServer(listeners, service, wiring.socket_options(own), gate)
    thread = threading.Thread(target=server.run, name="runai-embedded")
    level = "debug" if settings.log_level == "debug" else "critical"
    with logs.kept(level, settings.log_format, prompts=settings.log_prompts):
        service.start()
        try:
            thread.start()
            yield replace(own, port=server.port)
        finally:
            server.stop()
            service.stop()
            if thread.ident is not None:
                thread.join()
