"""Clients that vanish in any state, or never read: nobody else notices, and nothing is left."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from runai.testing.scripted import ScriptedEngine
from runai.transports.socket_server import StopReason
from tests.jobs.asking import ask, end_of
from tests.transports.clients import RawClient, generate
from tests.transports.conftest import Running, Serve

BIG_PNG = b"\x89PNG" + bytes(12_000_000)


def quit_politely(client: RawClient) -> None:
    client.core.send_quit()
    client.flush()
    while client.sock.recv(1 << 20):
        pass
    client.close()


Leave = Callable[[RawClient], None]
leaving = pytest.mark.parametrize("leave", [RawClient.kill, RawClient.close, quit_politely])
vanishing = pytest.mark.parametrize("leave", [RawClient.kill, RawClient.close])


def assert_worker_is_free_of(running: Running, request_id: str, *, after_steps: int) -> None:
    """Its request was dropped, and the worker does another."""
    running.engine.gate.open()
    session = running.service.open_session()
    session.submit(ask("another"))
    assert end_of(session, "another").type == "completed"
    session.close()
    assert request_id in running.engine.requests("drop")
    steps = [done for done in running.engine.requests("step") if request_id in done.split(",")]
    assert len(steps) == after_steps


@leaving
def test_a_client_that_leaves_while_its_picture_is_drawn_frees_the_engine_at_the_next_step(
    serve: Serve, leave: Leave
) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    running = serve(engine, keep_alive=False)
    client = running.client()
    client.send(generate("gone", num_inference_steps=50))
    engine.gate.let_pass(2)
    engine.gate.wait_until_reached()
    leave(client)
    assert running.reason() is StopReason.CLIENT_LEFT
    assert_worker_is_free_of(running, "gone", after_steps=3)  # the third was being done


@vanishing
@pytest.mark.parametrize("sent", [1, 500, 1024, 5000])
def test_a_client_that_vanishes_while_it_sends_is_noticed(
    serve: Serve, leave: Leave, sent: int
) -> None:
    running = serve(keep_alive=False)
    with running.client() as other:
        other.hello()
        client = running.client()
        client.sock.sendall((b'{"type": "generate", "prompt": "' + b"a" * 5000)[:sent])
        leave(client)
        assert other.ask(generate())["type"] == "completed"
    assert running.reason() is StopReason.CLIENT_LEFT


@vanishing
@pytest.mark.parametrize("introduced", [True, False])
def test_a_client_that_vanishes_while_it_receives_is_noticed(
    serve: Serve, leave: Leave, introduced: bool
) -> None:
    running = serve(ScriptedEngine(draw=lambda *_: BIG_PNG), keep_alive=False)
    with running.client() as client:
        if introduced:
            client.hello()
        client.send(generate())
        client.receive_type("accepted")
        client.read_bytes(500_000)
        leave(client)
    assert running.reason() is StopReason.CLIENT_LEFT


def send_until_blocked(client: RawClient, body: bytes, most: int) -> int:
    """How many of these messages the server takes from a client that reads nothing."""
    client.sock.settimeout(0.3)
    for number in range(most):
        try:
            client.send_body(body)
        except TimeoutError:
            return number
    return most


@pytest.mark.parametrize("introduced", [True, False])
def test_a_client_that_never_reads_is_not_read_from_and_delays_nobody(
    serve: Serve, introduced: bool
) -> None:
    running = serve()
    with running.client() as deaf, running.client() as other:
        if introduced:
            deaf.hello()
        # wrong requests, which are answered at once; the kernel holds some megabytes of both
        most = 30_000
        assert send_until_blocked(deaf, b'{"type": "nothing"}', most) < most
        other.hello()
        assert other.ask(generate())["type"] == "completed"
        deaf.kill()
        assert other.ask(generate())["type"] == "completed"


def test_the_pictures_of_a_client_that_never_reads_are_bounded_in_number(serve: Serve) -> None:
    drawn = []

    def draw(*_: object) -> bytes:
        drawn.append(1)
        return BIG_PNG

    running = serve(ScriptedEngine(draw=draw))
    with running.client() as deaf, running.client() as other:
        deaf.hello()
        for number in range(200):
            deaf.send(generate(f"r{number}", num_inference_steps=1))
        other.hello()
        # fair between clients: when these are done, so are as many of the other's
        for number in range(100):
            other.send(generate(f"o{number}", width=64, num_inference_steps=1))
            last = other.receive_type("completed", "failed")
            assert last["type"] == "completed"
            assert base64.b64decode(last["images"][0]["png"]) == BIG_PNG
            if number > 10 and len(drawn) - number > 64:
                break
        assert len(drawn) - number <= 64 + 4
