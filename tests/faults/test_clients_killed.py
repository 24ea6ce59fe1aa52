"""Clients that are killed, or leave, in every state that a connection can be in."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import certificates
import pytest

from runai.streams.contexts import server_context
from runai.testing.scripted import ScriptedEngine
from runai.transports.gate import Gate, Keys
from tests.faults.servers import Apart, Here
from tests.faults.watching import Row, Table, Watch, _until
from tests.transports.clients import RawClient, generate

BIG = """
import sys
from runai.cli import main
from runai.testing.scripted import ScriptedEngine
picture = b"\\x89PNG" + bytes(12_000_000)  # more than the kernel's buffers hold
sys.exit(main(make_engine=lambda: ScriptedEngine(draw=lambda *_: picture)))
"""
TOKEN = "an agreed token of some length"


def end_stream(client: RawClient) -> None:
    """FIN."""
    client.sock.shutdown(socket.SHUT_RDWR)
    client.close()


def kill_process(client: RawClient) -> None:
    """SIGKILL for a process whose connection it is: what then goes out is the kernel's choice."""
    holder = subprocess.Popen(["sleep", "60"], pass_fds=[client.sock.fileno()])
    client.close()
    holder.kill()
    holder.wait()


def _until_there_are(server: Here, clients: int) -> None:
    _until(lambda: server.service.status().clients == clients)
    assert server.service.status().clients == clients


ENDS: tuple[Callable[[RawClient], None], ...] = (RawClient.kill, end_stream, kill_process)
State = Callable[[ScriptedEngine, Watch, RawClient], None]


def connected(engine: ScriptedEngine, watch: Watch, client: RawClient) -> None:
    assert client.receive() is not None


def half_a_hello(engine: ScriptedEngine, watch: Watch, client: RawClient) -> None:
    client.sock.sendall(b'{"type": "hel')


def half_a_message(engine: ScriptedEngine, watch: Watch, client: RawClient) -> None:
    client.hello()
    client.sock.sendall(b'{"type": "generate", "prompt": "' + b"a" * 5000)


def queued(engine: ScriptedEngine, watch: Watch, client: RawClient) -> None:
    engine.gate.close()
    other = watch.client()
    for number in range(engine.capacity):
        other.request(f"other {number}")
        other.receive_type("accepted")
    engine.gate.wait_until_reached()
    client.send(generate("victim"))
    client.receive_type("accepted")


def loading(engine: ScriptedEngine, watch: Watch, client: RawClient) -> None:
    engine.loading_gate.close()
    cold = next(name for name in engine.models_on_disk if name not in engine.loaded_models())
    client.send(generate("victim", model=cold))
    client.receive_type("loading")
    engine.loading_gate.wait_until_reached()


def running(engine: ScriptedEngine, watch: Watch, client: RawClient) -> None:
    engine.gate.close()
    client.send(generate("victim", num_inference_steps=9))
    client.receive_type("accepted")
    engine.gate.wait_until_reached()


def canceled(engine: ScriptedEngine, watch: Watch, client: RawClient) -> None:
    running(engine, watch, client)
    client.send({"type": "cancel", "id": "victim"})
    client.receive_type("canceled")


@pytest.mark.parametrize(
    "state",
    [connected, half_a_hello, half_a_message, queued, loading, running, canceled],
)
def test_a_client_that_is_killed_in_any_state_is_gone_at_once_and_disturbs_nobody(
    scripted: Callable[..., Here], table: Table, state: State
) -> None:
    engine = ScriptedEngine()
    server = scripted(engine)
    name = state.__name__.replace("_", " ")
    with table.survived(f"client killed (RST, FIN, SIGKILL): {name}", server) as watch:
        for end in ENDS:
            client = RawClient(server.port)
            state(engine, watch, client)
            others = sum(not witness.closed for witness in watch.clients)
            end(client)
            _until_there_are(server, 1 + others)  # the table looks on
            engine.gate.open()
            engine.loading_gate.open()
            for witness in watch.clients:
                witness.settle()
            assert watch.ask(f"after {end.__name__}")["type"] == "completed"
        watch.saw("nothing: gone")
    assert engine.requests("drop").count("victim") <= len(ENDS)


@pytest.mark.parametrize("state", ["before the token", "half a TLS handshake"])
def test_a_stranger_that_is_killed_at_the_door_is_gone_at_once(
    scripted: Callable[..., Here],
    table: Table,
    state: str,
    tmp_path: Path,
) -> None:
    engine = ScriptedEngine()
    tls = None
    if "TLS" in state:
        tls = server_context(certificates.make(tmp_path).own)
    server = scripted(engine, gate=Gate(Keys(TOKEN, tls)))
    for end in ENDS:
        client = RawClient(server.port)
        client.sock.sendall(b"\x16\x03\x01" if tls else b'{"type": "hello", "tok')
        _until_there_are(server, 1)
        end(client)
        _until_there_are(server, 0)
    table.rows.append(Row(f"client killed (RST, FIN, SIGKILL): {state}", "yes", "nothing", "-"))


def test_clients_that_are_killed_while_they_receive_a_picture_leave_no_memory_behind(
    child: Callable[..., Apart], table: Table
) -> None:
    server = child("--port", "0", "--keep-alive", script=BIG)
    fault = "client killed (RST, FIN, SIGKILL): receiving a large picture, four times each"
    with table.survived(fault, server) as watch:
        for end in 4 * ENDS:
            client = RawClient(server.port)
            client.hello()
            client.send(generate("victim"))
            client.receive_type("accepted")
            client.read_bytes(100_000)
            end(client)
            assert watch.ask(f"after {end.__name__}")["type"] == "completed"
