"""Clients that read slowly, or not at all, and such as send slowly, many of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from runai.testing.scripted import ScriptedEngine
from runai.transports.socket_server import SocketOptions
from tests.faults.servers import Here
from tests.faults.watching import Table
from tests.transports.clients import RawClient

PICTURE = b"\x89PNG" + bytes(1_000_000)
STEPS = 60
SLOW_SENDERS = 100


def test_a_slow_reader_misses_previews_and_progress_and_no_result(
    scripted: Callable[..., Here], table: Table
) -> None:
    engine = ScriptedEngine(draw=lambda *_: PICTURE)
    server = scripted(engine)
    with table.survived("a client that does not read while it is drawn for", server) as watch:
        slow = watch.client()
        for name in "ab":
            slow.request(name, num_inference_steps=STEPS, preview=True)
        while server.service.status().running + server.service.status().queued:
            pass  # not a byte of it is read, and it is drawn to its end
        seen = {"preview": 0, "progress": 0}
        while len(slow.last) < 2:
            message = slow.receive()
            assert message is not None
            if message["type"] in seen:
                seen[message["type"]] += 1
        assert [slow.last[name][0]["type"] for name in "ab"] == ["completed"] * 2
        assert max(seen.values()) < STEPS
        watch.saw(f"{seen['preview']} of {2 * STEPS} previews")


def test_many_who_send_slowly_keep_nobody_waiting_and_are_sent_away(
    scripted: Callable[..., Here], table: Table, stack: ExitStack
) -> None:
    options = SocketOptions(
        keep_alive=True,
        max_connections=2 * SLOW_SENDERS,
        max_connections_per_peer=2 * SLOW_SENDERS,
        message_timeout_s=3.0,
    )
    server = scripted(ScriptedEngine(), options=options)
    with table.survived(f"{SLOW_SENDERS} clients that send half a message", server) as watch:
        slow = [stack.enter_context(RawClient(server.port)) for _ in range(SLOW_SENDERS)]
        for client in slow:
            client.sock.sendall(b'{"type": "gene')
        began = time.monotonic()
        assert watch.ask("meanwhile")["type"] == "completed"
        watch.saw(f"others served in {time.monotonic() - began:.2f} s")
        for client in slow:
            assert client.receive_type("failed")["error"]["code"] == "too_slow"
            client.close()
        watch.saw("too_slow")
