"""The connection against real servers, and against what is none: nothing is lost unsaid."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import certificates
import pytest
from runai_krita.connection import Connection, Revived
from runai_krita.conversation import LAST
from runai_krita.wire import encode

from runai.errors import NotFinite
from runai.streams.contexts import server_context
from runai.testing.scripted import Fault, ScriptedEngine
from runai.transports.gate import Keys
from tests.krita.conftest import HELLO, PATIENCE_S, noise


@contextmanager
def impostor(*answers: bytes, read_until: bytes = b"models") -> Iterator[int]:
    """Accepts one connection for each answer, says it, and hangs up when it has read so far."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(PATIENCE_S)

    def play() -> None:
        for answer in answers:
            accepted, _ = listener.accept()
            accepted.settimeout(PATIENCE_S)
            with accepted:
                accepted.sendall(answer)
                came = b""
                while read_until not in came:
                    came += accepted.recv(1 << 16)

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join(PATIENCE_S)
        listener.close()


def test_it_says_hello_asks_for_models_and_draws(serve: Any, listen: Any) -> None:
    running = serve()
    running.engine.gate.close()
    heard = listen(running.port)
    assert heard.until("hello")["capabilities"]["max_pixels"] > 0
    assert [found["name"] for found in heard.until("models")["models"]] == ["shapes", "other"]
    heard.ask("a", preview=True)
    heard.until("accepted", "a")
    heard.until("loading", "a")
    running.engine.gate.let_pass(1)
    heard.until("preview", "a")
    running.engine.gate.open()
    assert heard.until("completed", "a")["images"][0]["seed"] == 1
    assert heard.told.wait(PATIENCE_S), "nobody would have looked"


def test_a_cancel_is_answered_and_the_next_request_is_drawn(serve: Any, listen: Any) -> None:
    running = serve()
    running.engine.gate.close()
    heard = listen(running.port)
    heard.ask("a")
    heard.until("loading", "a")
    heard.connection.cancel("a")
    heard.until("canceled", "a")
    running.engine.gate.open()
    heard.ask("b")
    heard.until("completed", "b")


def test_a_failure_comes_with_message_and_hint(serve: Any, listen: Any) -> None:
    heard = listen(serve(ScriptedEngine(faults={"a": Fault(NotFinite("NaN."), 1)})).port)
    heard.ask("a")
    error = heard.until("failed", "a")["error"]
    assert error["message"] == "NaN." and error["hint"]


def test_what_was_open_when_the_server_went_is_lost_and_said_so(listen: Any) -> None:
    hello = encode({"type": "hello", "capabilities": {}})
    with impostor(hello, read_until=b"generate") as port:
        heard = listen(port)
        heard.until("hello")
        heard.ask("a")
        assert heard.until("failed", "a")["error"]["code"] == "connection_lost"
        assert heard.until("gone")["starting"] is False


def test_after_a_restart_the_next_request_is_drawn(serve: Any, listen: Any) -> None:
    first = serve()
    heard = listen(first.port)
    heard.until("models")
    first.engine.gate.close()
    heard.ask("a")
    first.engine.gate.wait_until_reached()
    first.end()
    assert heard.until("gone")["message"]
    last = [e for e in heard.seen if e.get("id") == "a" and e["type"] in LAST]
    assert len(last) == 1
    heard.ask("b")
    again = serve(port=first.port)
    assert again.port == first.port
    heard.until("hello")
    heard.until("completed", "b")


def test_what_is_asked_before_there_is_a_server_is_sent_when_there_is_one(
    serve: Any, listen: Any
) -> None:
    first = serve()
    first.end()
    heard = listen(first.port)
    heard.until("gone")
    for request_id in "abc":
        heard.ask(request_id)
    heard.connection.cancel("b")
    heard.until("canceled", "b")
    heard.connection.cancel("b")
    serve(port=first.port)
    heard.until("completed", "c")
    ends = [e["id"] for e in heard.seen if e.get("type") in ("completed", "canceled")]
    assert sorted(ends) == ["a", "b", "c"]


GARBAGE = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 2000 + bytes(2048),
    "no object": encode({})[1024:] + b"[]" + bytes(1022) + bytes(1024),
    "nothing at all": b"",
    "half a message": encode({"type": "hello"})[:700],
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_server_is_said_and_tried_again(answer: bytes, listen: Any) -> None:
    with impostor(answer, answer) as port:
        heard = listen(port)
        first = heard.until("gone")
        assert f"127.0.0.1:{port}" in first["message"]
        heard.until("gone")


@pytest.mark.parametrize("address", [("gpu..lan", 50006), ("127.0.0.1", 2**64)])
def test_an_address_that_can_be_none_is_said_and_tried_again(address: tuple[str, int]) -> None:
    connection = Connection(address, HELLO, lambda: None, pauses_s=(0.0,))
    connection.start()
    try:
        for _ in range(2):
            gone = connection.events.get(timeout=PATIENCE_S)
            assert f"{address[0]}:{address[1]} is gone: " in gone["message"]
    finally:
        connection.close()


class Noted(tuple):  # type: ignore[type-arg]
    """Pauses that note which of them was taken."""

    taken: list[int]

    def __getitem__(self, index: Any) -> Any:
        self.taken.append(index)
        return super().__getitem__(index)


def test_pauses_grow_until_a_server_has_said_hello(listen: Any) -> None:
    hello = encode({"type": "hello", "capabilities": {}})
    pauses = Noted((0.0, 0.0, 0.0))
    pauses.taken = []
    with impostor(b"", b"", b"", b"", hello, b"") as port:
        heard = listen(port, pauses_s=pauses)
        for _ in range(6):
            heard.until("gone")
    assert pauses.taken[:5] == [1, 2, 2, 2, 0]


def test_asking_ends_the_pause(serve: Any, listen: Any) -> None:
    first = serve()
    first.end()
    heard = listen(first.port, pauses_s=(600.0,))
    heard.until("gone")
    serve(port=first.port)
    heard.ask("a")
    heard.until("completed", "a")


def test_a_server_is_started_where_nobody_listens(serve: Any, listen: Any) -> None:
    first = serve()
    first.end()
    started: list[Any] = []

    def revive() -> Revived:
        started.append(serve(port=first.port))
        return Revived(True, "The server is starting.")

    heard = listen(first.port, revive=revive)
    gone = heard.until("gone")
    assert (gone["message"], gone["starting"]) == ("The server is starting.", True)
    heard.ask("a")
    heard.until("completed", "a")
    assert len(started) == 1


def test_large_messages_go_both_ways_at_once(serve: Any, listen: Any) -> None:
    picture = noise(1024)
    heard = listen(serve(ScriptedEngine(draw=lambda *_: picture)).port)
    image = base64.b64encode(picture).decode()
    for number in range(4):
        heard.ask(str(number), task="img2img", image=image)
    for number in range(4):
        heard.until("completed", str(number))
    ends = [event for event in heard.seen if event.get("type") == "completed"]
    assert [base64.b64decode(end["images"][0]["png"]) for end in ends] == [picture] * 4


def test_closing_ends_the_thread_whatever_it_waits_for(serve: Any, listen: Any) -> None:
    """In the pause, in the conversation, before anything: `listen` closes and looks."""
    first = serve()
    heard = listen(first.port)
    heard.until("models")
    first.end()
    heard.until("gone")
    listen(serve().port)
    listen(first.port, pauses_s=(600.0,)).until("gone")


# --- a server on another computer ----------------------------------------------------------

TOKEN = "correct horse battery staple"


def test_inside_tls_and_with_a_token_pictures_come_as_ever(
    serve: Any, listen: Any, tmp_path: Path
) -> None:
    pair = certificates.make(tmp_path)
    picture = noise(700)  # more than TLS unpacks at once
    keys = Keys(TOKEN, server_context(pair.own))
    server = serve(ScriptedEngine(draw=lambda *_: picture), keys=keys)
    heard = listen(server.port, token=TOKEN, certificate=str(pair.certificate))
    for number in range(5):
        heard.ask(str(number), prompt="x" * 10_000)
    for number in range(5):
        done = heard.until("completed", str(number))
        assert base64.b64decode(done["images"][0]["png"]) == picture


def test_a_server_with_another_certificate_is_not_talked_to(
    serve: Any, listen: Any, tmp_path: Path
) -> None:
    pair, other = certificates.make(tmp_path / "a"), certificates.make(tmp_path / "b")
    server = serve(keys=Keys(TOKEN, server_context(pair.own)))
    heard = listen(server.port, token=TOKEN, certificate=str(other.certificate))
    assert "another certificate than" in heard.until("gone")["message"]


def test_a_wrong_token_is_said_to_be_wrong(serve: Any, listen: Any) -> None:
    server = serve(keys=Keys(TOKEN))
    heard = listen(server.port, token="wrong")
    assert heard.until("failed")["error"]["code"] == "unauthorized"
