"""A client that comes back on a new connection, and a server that waits for it.

On one computer no network breaks: clients are passed off as from elsewhere, so that a reset may
be a box on the way. Real breaks are in tests/faults.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from typing import Any

import pytest

from runai.streams.plain import PlainStream
from runai.testing.scripted import ScriptedEngine
from runai.transports.gate import Keys
from runai.transports.origin import Origin
from runai.transports.socket_server import StopReason
from tests.transports.clients import LAST, Json, RawClient, generate
from tests.transports.conftest import Running, Serve

SECRET = "a secret of the client's"
TOKEN = "an agreed token of some length"


@pytest.fixture
def _from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Origin, "is_here", False)


elsewhere = pytest.mark.usefixtures("_from_elsewhere")


def come(running: Running, **more: Any) -> tuple[RawClient, Json]:
    client = running.client()
    client.send({"type": "hello", "session": SECRET, **more})
    return client, client.receive_type("hello")


def drawing(serve: Serve, **options: Any) -> tuple[Running, RawClient]:
    """A server, and a client of it whose request stands before its first step."""
    engine = ScriptedEngine()
    engine.gate.close()
    running = serve(engine, **options)
    client, hello = come(running)
    assert hello["open"] == [] and hello["capabilities"]["resume_s"] > 0
    client.send(generate("a"))
    client.receive_type("accepted")
    engine.gate.wait_until_reached()
    return running, client


def end_stream(client: RawClient) -> None:
    """With something unread a mere `close` would reset it."""
    client.sock.shutdown(socket.SHUT_RDWR)
    client.close()


def confirm(client: RawClient, request_id: str) -> None:
    client.send({"type": "received", "id": request_id})


@elsewhere
def test_a_request_goes_on_after_a_reset_and_its_answer_comes_once(serve: Serve) -> None:
    running, client = drawing(serve, keep_alive=False)
    client.kill()
    running.engine.gate.open()
    again, hello = come(running)
    with again:
        assert hello["open"] == ["a"]
        assert again.receive_type("accepted")["id"] == "a"
        assert again.receive_type(*LAST)["type"] == "completed"
        confirm(again, "a")
        again.send({"type": "status"})
        assert again.receive_type("status", *LAST)["type"] == "status"
    assert running.reason() is StopReason.CLIENT_LEFT
    assert "a" not in running.engine.requests("drop")


@elsewhere
def test_a_break_in_the_middle_of_a_message_cancels_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, client = drawing(serve)
    client.sock.sendall(b'{"type": "generate", "prompt": ' + b" " * 5000)

    def broken(self: PlainStream, data: bytes) -> None:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    with monkeypatch.context() as no_network:  # which the writer finds out first
        no_network.setattr(PlainStream, "sendall", broken)
        running.engine.gate.let_pass()
        while client.sock.recv(65536):
            pass
    running.engine.gate.open()
    again, hello = come(running)
    with client, again:
        assert hello["open"] == ["a"]
        assert again.receive_type(*LAST)["type"] == "completed"
        confirm(again, "a")
        assert again.ask(generate("b"))["type"] == "completed"


@elsewhere
def test_an_answer_that_was_sent_but_not_confirmed_is_sent_again(serve: Serve) -> None:
    running, client = drawing(serve)
    running.engine.gate.open()
    client.receive_type("completed")
    client.kill()
    again, _ = come(running)
    with again:
        assert again.receive_type(*LAST)["type"] == "completed"


@elsewhere
@pytest.mark.parametrize("leave", [end_stream, RawClient.kill])
def test_an_ended_stream_means_that_the_client_has_left_and_a_reset_does_not(
    serve: Serve, leave: Any
) -> None:
    running, client = drawing(serve, keep_alive=False)
    leave(client)
    if leave is end_stream:
        assert running.reason() is StopReason.CLIENT_LEFT
    else:
        again, hello = come(running)
        assert hello["open"] == ["a"]
        again.close()


def test_a_reset_on_this_computer_means_that_the_client_was_killed(serve: Serve) -> None:
    running, client = drawing(serve, keep_alive=False)
    client.kill()
    assert running.reason() is StopReason.CLIENT_LEFT


@elsewhere
def test_a_server_waits_for_who_may_come_back_and_then_ends(serve: Serve) -> None:
    running, client = drawing(serve, keep_alive=False, resume_s=0.2)
    client.kill()
    assert running.reason() is StopReason.CLIENT_LEFT
    assert running.service.status().running == 0


@elsewhere
def test_a_server_that_keeps_nothing_says_so_and_cancels_at_once(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    running = serve(engine, keep_alive=False, resume_s=0.0)
    client, hello = come(running)
    assert hello["capabilities"]["resume_s"] == 0
    client.send(generate("a"))
    client.receive_type("accepted")
    client.kill()
    assert running.reason() is StopReason.CLIENT_LEFT


def test_a_connection_that_seems_alive_is_ended_when_its_client_comes_back(serve: Serve) -> None:
    running, old = drawing(serve)
    new, hello = come(running)
    with old, new:
        assert hello["open"] == ["a"]
        while old.receive() is not None:
            pass
        running.engine.gate.open()
        assert new.receive_type(*LAST)["type"] == "completed"


def test_who_comes_back_finds_its_own_seat_taken_by_itself(serve: Serve) -> None:
    running, old = drawing(serve, max_connections=1)
    new, hello = come(running)  # the server has not noticed that the old one is gone
    with old, new:
        assert hello["open"] == ["a"]
        running.engine.gate.open()
        assert new.receive_type(*LAST)["type"] == "completed"


@elsewhere
@pytest.mark.parametrize("keys", [Keys(), Keys(token=TOKEN)])
def test_who_comes_back_is_let_in_where_another_has_taken_its_seat(
    serve: Serve, keys: Keys
) -> None:
    token = {"token": keys.token} if keys.token else {}
    running, old = drawing(serve, max_connections=1)
    running.gate.change(keys)
    old.kill()
    while running.service.expire() is None:  # until it is waited for
        pass
    other, _ = come(running, session=SECRET[::-1], **token)
    again, hello = come(running, **token)
    with other, again:
        assert hello["open"] == ["a"]
        running.engine.gate.open()
        assert again.receive_type(*LAST)["type"] == "completed"
        confirm(again, "a")
        assert again.ask(generate("b"))["type"] == "completed"


@pytest.mark.parametrize("hello", [{"session": SECRET[::-1]}, {}, {"session": None}])
def test_who_is_not_waited_for_gets_no_seat_where_there_is_none(serve: Serve, hello: Json) -> None:
    running, client = drawing(serve, max_connections=1)
    with client, running.client() as other:
        other.send({"type": "hello", **hello})
        assert other.receive_type("failed", "hello")["error"]["code"] == "too_many_connections"


def test_a_secret_gets_no_seat_without_the_token(serve: Serve) -> None:
    running, client = drawing(serve, max_connections=1)
    running.gate.change(Keys(token=TOKEN))
    with client, running.client() as thief:
        thief.send({"type": "hello", "session": SECRET, "token": "a wrong one"})
        assert thief.receive_type("failed", "hello")["type"] == "failed"
        running.engine.gate.open()
        assert client.receive_type(*LAST)["type"] == "completed"


def test_of_many_that_come_back_at_the_same_time_the_last_one_has_it(serve: Serve) -> None:
    running, first = drawing(serve)
    last: list[str] = []

    def come_and_stay() -> None:
        # (all but one are cut off, some in the middle of a message)
        with running.client() as client, contextlib.suppress(AssertionError, ConnectionError):
            client.send({"type": "hello", "session": SECRET})
            while not last and (message := client.receive()) is not None:
                if message.get("type") in LAST:
                    last.append(message["type"])

    threads = [threading.Thread(target=come_and_stay) for _ in range(8)]
    for thread in threads:
        thread.start()
    while first.receive() is not None:
        pass
    first.close()
    running.engine.gate.open()
    for thread in threads:
        thread.join()
    assert last == ["completed"]


def test_another_secret_gets_nothing(serve: Serve) -> None:
    running, client = drawing(serve)
    other, hello = come(running, session=SECRET[::-1])
    with client, other:
        assert hello["open"] == []


def test_a_session_is_not_taken_over_without_the_token(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    running = serve(engine, keys=Keys(token=TOKEN))
    client, _ = come(running, token=TOKEN)
    client.send(generate("a"))
    client.receive_type("accepted")
    thief = running.client()
    thief.send({"type": "hello", "session": SECRET, "token": "a wrong one"})
    assert thief.receive_type("failed", "hello")["error"]["code"] == "unauthorized"
    thief.close()
    engine.gate.open()
    with client:
        assert client.receive_type(*LAST)["type"] == "completed"


@pytest.mark.parametrize("session", ["short", "x" * 129])
def test_a_secret_that_is_easily_guessed_or_endless_is_refused(serve: Serve, session: str) -> None:
    with serve().client() as client:
        client.send({"type": "hello", "session": session})
        assert client.receive_type("failed")["error"]["field"] == "session"


def test_a_session_is_named_first_or_not_at_all(serve: Serve) -> None:
    running = serve()
    with running.client() as client:
        client.hello()
        client.send({"type": "hello", "session": SECRET})
        assert client.receive_type("failed")["error"]["field"] == "session"
        assert client.ask(generate())["type"] == "completed"


def test_received_is_not_answered_whatever_it_names(serve: Serve) -> None:
    with serve().client() as client:
        client.hello()
        confirm(client, "never asked")
        client.send({"type": "status"})
        assert client.receive_type("status", "failed")["type"] == "status"
