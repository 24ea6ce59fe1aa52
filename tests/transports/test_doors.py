"""How strangers come in, or do not: TLS, tokens, Unix sockets, seats and time."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import stat
import sys
import threading
import time
from pathlib import Path

import certificates
import pytest

from runai.errors import NotOffered
from runai.streams.contexts import server_context
from runai.testing.scripted import ScriptedEngine
from runai.transports import gate as gate_module
from runai.transports.connection import STRANGER_BYTES
from runai.transports.gate import Keys
from runai.transports.opening import Opening
from runai.transports.socket_server import StopReason
from runai.wire.packets import encode
from tests.transports.clients import PACKET, PATIENCE_S, RawClient, generate
from tests.transports.conftest import Running, Serve

TOKEN = "correct horse battery staple"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guessing is slowed down, but not so much that the tests are."""
    monkeypatch.setattr(gate_module, "FIRST_DELAY_S", 0.01)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> certificates.Pair:
    return certificates.make(tmp_path_factory.mktemp("pair"))


def sent_away_with(client: RawClient, code: str) -> str:
    """What it is told before it is left; nothing else comes."""
    told = client.receive()
    assert told is not None
    assert (told["type"], told["error"]["code"]) == ("failed", code)
    assert client.receive() is None
    return str(told["error"]["message"])


def encrypted(running: Running, pair: certificates.Pair) -> RawClient:
    context = ssl.create_default_context(cafile=pair.certificate)
    plain = socket.create_connection(("127.0.0.1", running.port), PATIENCE_S)
    return RawClient(0, connected=context.wrap_socket(plain, server_hostname="127.0.0.1"))


# Tokens.


def test_with_the_token_a_client_is_served_as_ever(serve: Serve) -> None:
    running = serve(keys=Keys(TOKEN), keep_alive=False)
    with running.client() as client:
        client.hello(token=TOKEN)
        assert client.ask(generate())["type"] == "completed"
        client.hello()  # again, and without: it is in
    assert running.reason() is StopReason.CLIENT_LEFT


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x"])
def test_without_the_token_a_client_is_told_so_and_left(serve: Serve, token: str | None) -> None:
    running = serve(keys=Keys(TOKEN))
    with running.client() as client:
        client.send({"type": "hello", "token": token})
        sent_away_with(client, "unauthorized")


@pytest.mark.parametrize(
    "message", [generate(), {"type": "status"}, {"type": "models"}, {"action": "txt2img"}]
)
def test_nothing_but_hello_is_heard_from_a_stranger(
    serve: Serve, message: dict[str, object]
) -> None:
    running = serve(keys=Keys(TOKEN))
    with running.client() as client:
        client.send(message)
        client.send({"type": "hello", "token": TOKEN})  # too late
        sent_away_with(client, "unauthorized")
    assert running.engine.log == []


@pytest.mark.parametrize(
    ("body", "code"), [(b"{", "invalid_json"), (b"\xff", "invalid_json"), (b"", "invalid_json")]
)
def test_what_a_stranger_sends_that_is_no_message_ends_it(
    serve: Serve, body: bytes, code: str
) -> None:
    running = serve(keys=Keys(TOKEN))
    with running.client() as client:
        client.send_body(body)
        sent_away_with(client, code)


def test_a_stranger_can_neither_cancel_nor_send_much(serve: Serve) -> None:
    running = serve(keys=Keys(TOKEN))
    with running.client() as client:
        client.core.send_cancel()
        client.flush()
        sent_away_with(client, "unauthorized")
    with running.client() as client:
        client.send({"type": "hello", "token": TOKEN, "client": "x" * STRANGER_BYTES})
        sent_away_with(client, "unauthorized")
    with running.client() as client:
        client.hello(token=TOKEN)
        assert client.ask(generate(prompt="x" * 2 * STRANGER_BYTES))["error"]["field"] == "prompt"


def test_a_stranger_is_told_nothing_of_the_server(serve: Serve) -> None:
    running = serve(keys=Keys(TOKEN))
    with running.client() as client:
        client.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.receive()


def test_a_stranger_neither_keeps_a_server_nor_ends_it(serve: Serve) -> None:
    running = serve(keys=Keys(TOKEN), keep_alive=False)
    with running.client() as client:
        client.hello(token=TOKEN)
        with running.client() as stranger:
            stranger.send({"type": "hello", "token": "wrong"})
            sent_away_with(stranger, "unauthorized")
        assert client.ask(generate())["type"] == "completed"
        stranger = running.client()
        client.close()
        assert running.reason() is StopReason.CLIENT_LEFT
        stranger.close()


def test_a_stranger_is_nobody_who_came(serve: Serve) -> None:
    running = serve(keys=Keys(TOKEN), keep_alive=False, first_client_timeout_s=0.3)
    with running.client():
        assert running.reason() is StopReason.NOBODY_CAME


def test_guessing_becomes_slower_each_time_and_others_do_not_wait(serve: Serve) -> None:
    running = serve(keys=Keys(TOKEN))
    took = []
    with running.client() as other:
        other.hello(token=TOKEN)
        for _ in range(6):
            began = time.monotonic()
            with running.client() as client:
                client.send({"type": "hello", "token": "guess"})
                sent_away_with(client, "unauthorized")
            took.append(time.monotonic() - began)
        assert took[5] >= 0.01 * 2**5
        assert other.ask(generate())["type"] == "completed"


def test_a_server_that_ends_does_not_wait_for_a_guesser(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "FIRST_DELAY_S", 1e9)
    monkeypatch.setattr(gate_module, "MOST_DELAY_S", 1e9)
    running = serve(keys=Keys(TOKEN), write_deadline_s=0.1)
    with running.client() as client:
        client.send({"type": "hello", "token": "guess"})
        running.server.stop()
        assert running.reason() is StopReason.STOPPED


def test_new_keys_leave_those_in_who_are_in(serve: Serve) -> None:
    running = serve(keys=Keys(TOKEN))
    with running.client() as early:
        early.hello(token=TOKEN)
        running.gate.change(Keys("another token of some length"))
        with running.client() as late:
            late.send({"type": "hello", "token": TOKEN})
            sent_away_with(late, "unauthorized")
        with running.client() as late:
            late.hello(token="another token of some length")
            assert late.ask(generate())["type"] == "completed"
        assert early.ask(generate())["type"] == "completed"


# TLS.


def test_inside_tls_everything_is_as_ever(serve: Serve, pair: certificates.Pair) -> None:
    big = b"\x89PNG" + bytes(3_000_000)
    keys = Keys(TOKEN, server_context(pair.own))
    running = serve(ScriptedEngine(draw=lambda *_: big), keys=keys, keep_alive=False)
    with encrypted(running, pair) as client:
        client.hello(token=TOKEN)
        done = client.ask(generate(prompt="x" * 10_000, num_images=3))
        assert len(done["images"]) == 3
        client.core.send_quit()
        client.flush()
        assert client.receive() is None  # with TLS's goodbye: a cut would raise
    assert running.reason() is StopReason.CLIENT_LEFT


def test_a_naive_reader_inside_tls_is_greeted(serve: Serve, pair: certificates.Pair) -> None:
    running = serve(keys=Keys(tls=server_context(pair.own)))
    with encrypted(running, pair) as client:
        greeting = client.receive()
        assert greeting is not None and "versions" in greeting


def test_plain_bytes_where_tls_is_spoken_are_answered_in_plain_words(
    serve: Serve, pair: certificates.Pair
) -> None:
    running = serve(keys=Keys(TOKEN, server_context(pair.own)))
    with running.client() as client:
        client.send({"type": "hello", "token": TOKEN})
        sent_away_with(client, "tls_required")
    with encrypted(running, pair) as client:
        client.hello(token=TOKEN)


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x00\xff"])
def test_a_handshake_that_does_not_go_on_is_ended(
    serve: Serve, pair: certificates.Pair, sent: bytes
) -> None:
    running = serve(keys=Keys(tls=server_context(pair.own)), auth_timeout_s=0.2)
    with running.client() as client:
        client.sock.sendall(sent)
        while client.sock.recv(1000):
            pass


@pytest.mark.parametrize("sent", [b"\x16" * 5000, b"\x16\x03\x01\x00\x05hello", b"\x16\x03"])
def test_a_broken_handshake_harms_nobody(
    serve: Serve, pair: certificates.Pair, sent: bytes
) -> None:
    running = serve(keys=Keys(tls=server_context(pair.own)))
    with encrypted(running, pair) as other:
        with running.client() as client:
            client.sock.sendall(sent)
        assert other.ask(generate())["type"] == "completed"


def test_a_client_that_vanishes_inside_tls_is_noticed(
    serve: Serve, pair: certificates.Pair
) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    running = serve(engine, keys=Keys(tls=server_context(pair.own)), keep_alive=False)
    client = encrypted(running, pair)
    client.send(generate("gone", num_inference_steps=50))
    engine.gate.wait_until_reached()
    client.kill()
    assert running.reason() is StopReason.CLIENT_LEFT


# Unix sockets.


def test_over_a_unix_socket_this_user_needs_no_token(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s"
    running = serve(keys=Keys(TOKEN), unix_path=path, keep_alive=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    sock.settimeout(PATIENCE_S)
    with RawClient(0, connected=sock) as client:
        greeting = client.receive()
        assert greeting is not None and "versions" in greeting
        assert client.ask(generate())["type"] == "completed"
        client.hello()
        assert client.ask(generate())["type"] == "completed"
    assert running.reason() is StopReason.CLIENT_LEFT
    assert not path.exists()


# Seats.


@pytest.mark.parametrize("most", [1, 2])
def test_one_peer_gets_no_more_than_its_seats(serve: Serve, most: int) -> None:
    running = serve(max_connections=4, max_connections_per_peer=most)
    seated = [running.client() for _ in range(most)]
    for client in seated:
        client.hello()
    with running.client() as another:
        message = sent_away_with(another, "too_many_connections")
        assert message == f"{most} clients from this computer are connected, as many as may be."
    for client in seated:
        assert client.ask(generate())["type"] == "completed"
        client.close()


# Time.


def test_a_message_that_does_not_end_in_time_ends_its_client(serve: Serve) -> None:
    running = serve(message_timeout_s=0.3)
    with running.client() as slow, running.client() as other:
        slow.hello()
        slow.sock.sendall(b'{"type": ')
        assert "longer than 0.3 s" in sent_away_with(slow, "too_slow")
        assert other.ask(generate())["type"] == "completed"


def test_a_message_that_trickles_in_is_not_waited_for_any_longer(serve: Serve) -> None:
    running = serve(message_timeout_s=0.3)
    began = time.monotonic()
    with running.client() as slow:
        slow.hello()
        slow.sock.settimeout(0.02)
        while time.monotonic() - began < PATIENCE_S:
            try:
                slow.sock.sendall(b"x")
                if not slow.sock.recv(100):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
            else:
                break
    assert 0.3 <= time.monotonic() - began < PATIENCE_S


def test_what_is_open_of_a_client_that_is_too_slow_is_canceled(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    running = serve(engine, message_timeout_s=0.2)
    with running.client() as slow:
        slow.hello()
        slow.send(generate("open"))
        slow.receive_type("accepted")
        slow.sock.sendall(b"{")
        assert slow.receive_type("canceled")["id"] == "open"
        sent_away_with(slow, "too_slow")


def test_a_client_that_says_nothing_is_left_where_that_is_set(serve: Serve) -> None:
    running = serve(idle_timeout_s=0.2)
    with running.client() as idle:
        idle.hello()
        assert "Nothing was asked for 0.2 s." in sent_away_with(idle, "too_slow")


def test_a_client_that_waits_for_its_picture_is_not_idle(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    running = serve(engine, idle_timeout_s=0.1)
    with running.client() as client:
        client.hello()
        client.send(generate())
        client.receive_type("accepted")
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.receive_type("completed")
        client.sock.settimeout(PATIENCE_S)
        engine.gate.open()
        client.receive_type("completed")
        sent_away_with(client, "too_slow")


def test_a_client_that_waits_for_a_conversion_is_not_idle(serve: Serve, tmp_path: Path) -> None:
    may_end = tmp_path / "may end"
    os.mkfifo(may_end)
    script = f"print(open({str(may_end)!r}).read())"
    running = serve(idle_timeout_s=0.1, conversion=lambda asked: [sys.executable, "-c", script])
    with running.client() as client:
        client.hello()
        client.send({"type": "convert", "id": "c", "model": "m", "form": "safetensors"})
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.receive()
        client.sock.settimeout(PATIENCE_S)
        may_end.write_text("v1/m.safetensors")
        assert client.receive_type("converted")["path"] == "v1/m.safetensors"
        sent_away_with(client, "too_slow")


def test_a_stranger_that_shows_no_token_in_time_is_left(serve: Serve) -> None:
    running = serve(keys=Keys(TOKEN), auth_timeout_s=0.2)
    with running.client() as silent:
        assert "No token came within 0.2 s." in sent_away_with(silent, "too_slow")
    with running.client() as quick:
        quick.hello(token=TOKEN)
        quick.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            quick.receive()


# What a web page can have a browser send.


def smuggled(message: dict[str, object]) -> bytes:
    """A request whose body, read as packets, holds a message of its own."""
    head = b"POST / HTTP/1.1\r\nHost: localhost:50006\r\nContent-Length: 3072\r\n\r\n"
    return head.ljust(PACKET, b" ") + bytes(PACKET) + encode(json.dumps(message).encode(), PACKET)


@pytest.mark.parametrize("cut", [1, 3, 5000])
def test_a_web_page_gets_nothing_drawn(serve: Serve, cut: int) -> None:
    running = serve()
    sent = smuggled(generate())
    with running.client() as browser, running.client() as other:
        browser.receive()  # the greeting
        browser.sock.sendall(sent[:cut])
        with contextlib.suppress(OSError):
            browser.sock.sendall(sent[cut:])
        sent_away_with(browser, "not_offered")
        assert other.ask(generate("other"))["type"] == "completed"
    assert running.engine.requests("admit") == ["other"]


def test_a_tls_handshake_where_none_is_spoken_ends_the_stream(serve: Serve) -> None:
    running = serve()
    with running.client() as browser:
        browser.receive()
        browser.sock.sendall(b"\x16\x03\x01" + smuggled(generate()))
        sent_away_with(browser, "not_offered")
    assert running.engine.requests("admit") == []


@pytest.mark.parametrize(
    "begun",
    [
        "GET /",
        "FOO /x",
        "x-y /",
        "cccc /",
        "cx /",
        "x|y /",
        "\r\nPOST /",
        " /",
        "9 /",
        "*",
        "\x16\x03",
    ],
)
def test_nothing_that_a_page_could_send_is_gone_on_with(begun: str) -> None:
    opening = Opening()
    with pytest.raises(NotOffered):
        for byte in begun.encode():
            opening.hear(bytes([byte]))
    assert not opening.is_known


@pytest.mark.parametrize("begun", ['{"type"', "[1]", '"text"', "\0", "\ufeff{", "cccc{", "xx"])
def test_what_a_client_may_begin_with_and_all_that_follows_is_heard(begun: str) -> None:
    opening = Opening()
    opening.hear(begun.encode())
    assert opening.is_known is (begun != "xx")
    if opening.is_known:
        opening.hear(b"GET / HTTP/1.1")


def test_a_method_of_a_pages_own_gets_nothing_drawn_and_does_not_end_a_server(
    serve: Serve,
) -> None:
    running = serve(keep_alive=False)
    with running.client() as other:
        other.hello()
        for method in (b"FOO", b"c" * PACKET):
            with running.client() as browser:
                browser.receive()
                browser.sock.sendall(smuggled(generate()).replace(b"POST", method, 1))
                sent_away_with(browser, "not_offered")
        assert running.engine.requests("admit") == []
        browser = running.client()
        browser.receive()
        browser.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        sent_away_with(browser, "not_offered")
        browser.close()
        assert other.ask(generate("other"))["type"] == "completed"


def test_a_page_alone_is_no_client_whose_leaving_ends_a_server(serve: Serve) -> None:
    running = serve(keep_alive=False)
    with running.client() as browser:
        browser.receive()
        browser.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        sent_away_with(browser, "not_offered")
    with running.client() as client:
        assert client.ask(generate())["type"] == "completed"
    assert running.reason() is StopReason.CLIENT_LEFT


# Those who push.


def test_who_floods_is_not_read_past_its_time(serve: Serve) -> None:
    running = serve(message_timeout_s=0.5, max_message_bytes=2**30)
    began = time.monotonic()
    with running.client() as flood:
        flood.hello()
        with pytest.raises(OSError):
            while time.monotonic() - began < PATIENCE_S:
                flood.sock.sendall(b"{" + b"x" * 100_000)
    assert time.monotonic() - began < PATIENCE_S


def test_who_is_sent_away_holds_no_seat(serve: Serve) -> None:
    running = serve(keys=Keys(TOKEN), max_connections=1)
    with running.client() as stranger:
        stranger.send({"type": "status"})
        sent_away_with(stranger, "unauthorized")
        # it has been told, and stays: the server still reads what it sends, for a while
        with running.client() as client:
            client.hello(token=TOKEN)
            assert client.ask(generate())["type"] == "completed"


def test_a_full_server_says_so_inside_tls(serve: Serve, pair: certificates.Pair) -> None:
    running = serve(keys=Keys(tls=server_context(pair.own)), max_connections=1)
    with encrypted(running, pair) as first, encrypted(running, pair) as second:
        sent_away_with(second, "too_many_connections")
        assert first.ask(generate())["type"] == "completed"


def test_a_server_that_ends_does_not_wait_for_who_asks_for_models(serve: Serve) -> None:
    made = threading.Event()

    def make() -> ScriptedEngine:
        made.wait(PATIENCE_S)
        return ScriptedEngine()

    running = serve(make_engine=make, write_deadline_s=0.2)
    with running.client() as client:
        client.send({"type": "models"})
        running.server.stop()
        assert running.reason() is StopReason.STOPPED
    made.set()
