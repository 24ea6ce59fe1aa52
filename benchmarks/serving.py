"""A real server inside the benchmark's own process, and clients that ask it over real sockets.

In one process, so that what is compared with it draws with the same weights in the same memory. The
server's threads and the clients' share Python's lock: what that costs is in every figure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from runai.client import Client
from runai.jobs.engine import Engine
from runai.jobs.service import Service
from runai.schema.events import Completed, JobEvent
from runai.schema.requests import TextToImage
from runai.transports.listener import bind
from runai.transports.socket_server import SocketOptions, SocketServer

SEATS = 1024


@contextmanager
def serving(engine: Engine) -> Iterator[int]:
    """The port of a server that draws with this engine."""
    service = Service(lambda: engine, max_queued=4 * SEATS)
    options = SocketOptions(keep_alive=True, max_connections=SEATS, max_connections_per_peer=SEATS)
    server = SocketServer(bind("127.0.0.1", 0), service, options)
    thread = threading.Thread(target=server.run)
    service.start()
    thread.start()
    try:
        yield server.port
    finally:
        server.stop()
        service.stop()
        thread.join()


def ask(
    port: int, request: TextToImage, hear: Callable[[JobEvent], None] = lambda event: None
) -> float:
    """One client's request from its connection on; seconds until it is answered."""
    began = time.perf_counter()
    with Client("127.0.0.1", port) as client:
        for event in client.generate(request):
            hear(event)
            last = event
        took = time.perf_counter() - began
    assert isinstance(last, Completed), last
    return took


def together(*calls: Callable[[], Any]) -> list[Any]:
    """All at once, each on a thread of its own; what they gave, in order."""
    results: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        results[index] = calls[index]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
