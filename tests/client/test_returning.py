"""The client comes back after a break of the network, to a peer that says what the test wants.

On one computer no network breaks, so the peer is passed off as one from elsewhere, and its
resets as those of a box on the way. Real breaks are in tests/faults.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

from runai.client import Client
from runai.client.link import Link
from runai.errors import ConnectionLost, DuplicateId, ModelNotFound, Unauthorized
from runai.schema.events import Accepted, Canceled, Progress
from runai.schema.requests import TextToImage
from runai.streams.plain import PlainStream
from tests.client.test_client import STATUS, completed, failed, in_thread, request
from tests.conftest import HELLO, PATIENCE_S


@pytest.fixture(autouse=True)
def _from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainStream, "is_here", False)


def client_of(stage: Any, **more: Any) -> Client:
    return Client("127.0.0.1", stage.port, backoff_s=(0.0,), **more)


def welcome(peer: Any, *still_open: str, resume_s: float = 5.0) -> str:
    """Greet a client that may come back; its secret."""
    hello = peer.read()
    able = HELLO.capabilities.model_copy(update={"resume_s": resume_s})
    peer.say(HELLO.model_copy(update={"capabilities": able, "open": list(still_open)}))
    return str(hello.get("session"))


def reset(peer: Any) -> None:
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()


def received(peer: Any, request_id: str) -> bool:
    said = peer.read()
    return not said or said == {"type": "received", "id": request_id}  # or it has left since


def broken_after(
    *said: Any, requests: int = 1, secrets: list[str] | None = None
) -> Callable[[Any], None]:
    """A peer that takes so many requests, says this of them, and breaks."""

    def script(peer: Any) -> None:
        secret = welcome(peer)
        if secrets is not None:
            secrets.append(secret)
        for _ in range(requests):
            assert peer.read()["type"] == "generate"
        peer.say(*said)
        assert peer.read()["type"] == "status"
        peer.say(STATUS)
        assert peer.read()["type"] == "status"  # all that was said has been heard
        reset(peer)

    return script


def wait_until_broken(client: Client) -> None:
    """For `broken_after`."""
    assert client.status() == STATUS
    with pytest.raises(ConnectionLost, match="The connection broke"):
        client.status()


def test_a_request_goes_on_where_the_server_still_has_it(stage: Any) -> None:
    secrets: list[str] = []

    def goes_on(peer: Any) -> None:
        secrets.append(welcome(peer, "1"))
        peer.say(Accepted(id="1", position=0), Progress(id="1", step=2, total=2), completed("1"))
        assert received(peer, "1")
        peer.wait_until_left()

    before = [Accepted(id="1", position=3), Progress(id="1", step=1, total=2)]
    stage.play(broken_after(*before, secrets=secrets), goes_on)
    with client_of(stage) as client:
        answers = client.generate(request())
        wait_until_broken(client)
        assert list(answers) == [*before, Progress(id="1", step=2, total=2), completed("1")]
    assert secrets[0] == secrets[1] and len(secrets[0]) >= 16


def test_a_last_answer_whose_confirmation_was_lost_is_confirmed_again_and_given_out_once(
    stage: Any,
) -> None:
    def breaks(peer: Any) -> None:
        welcome(peer)
        assert [peer.read()["id"] for _ in "ab"] == ["1", "2"]
        peer.say(Accepted(id="2", position=1), completed("1"))
        assert received(peer, "1")  # for all that the client knows it was not
        reset(peer)

    def goes_on(peer: Any) -> None:
        welcome(peer, "1", "2")
        assert peer.read() == {"type": "cancel", "id": "1"}
        peer.say(completed("1"))
        assert received(peer, "1")
        peer.say(completed("2"))
        assert received(peer, "2")
        peer.wait_until_left()

    stage.play(breaks, goes_on)
    with client_of(stage) as client:
        one, two = client.generate(request("1")), client.generate(request("2"))
        assert list(one) == [completed("1")]
        assert list(two) == [Accepted(id="2", position=1), completed("2")]


def test_an_old_requests_answer_is_not_taken_for_that_of_a_new_one_with_its_id(stage: Any) -> None:
    def breaks(peer: Any) -> None:
        welcome(peer)
        peer.read()
        peer.say(completed("1"))
        assert received(peer, "1")
        assert peer.read()["id"] == "1"  # the new one, which a server might never see
        reset(peer)

    def has_the_old_one(peer: Any) -> None:
        welcome(peer, "1")
        assert peer.read() == {"type": "cancel", "id": "1"}
        peer.say(completed("1"))
        assert {peer.read()["type"] for _ in range(2)} == {"received", "status"}
        peer.say(STATUS)
        peer.wait_until_left()

    stage.play(breaks, has_the_old_one)
    with client_of(stage) as client:
        assert list(client.generate(request())) == [completed("1")]
        with pytest.raises(ConnectionLost, match="not there any more"):
            list(client.generate(request()))
        assert client.status() == STATUS


def test_what_the_server_has_no_more_is_said_to_be_gone(stage: Any) -> None:
    def forgot(peer: Any) -> None:
        welcome(peer)
        peer.wait_until_left()

    stage.play(broken_after(Accepted(id="1", position=0)), forgot)
    with client_of(stage) as client:
        answers = client.generate(request())
        wait_until_broken(client)
        assert next(answers) == Accepted(id="1", position=0)
        with pytest.raises(ConnectionLost, match="not there any more when the connection came"):
            next(answers)


def is_asked_to_cancel(peer: Any) -> None:
    """A peer that still has the request."""
    welcome(peer, "1")
    assert peer.read() == {"type": "cancel", "id": "1"}
    peer.say(Canceled(id="1"))
    assert received(peer, "1")
    peer.wait_until_left()


def test_a_cancel_while_there_is_no_connection_is_sent_when_there_is_one(stage: Any) -> None:
    canceled = threading.Event()

    def goes_on(peer: Any) -> None:
        assert canceled.wait(PATIENCE_S)
        is_asked_to_cancel(peer)

    stage.play(broken_after(Accepted(id="1", position=0)), goes_on)
    with client_of(stage) as client:
        answers = client.generate(request())
        wait_until_broken(client)
        answers.cancel()
        canceled.set()
        assert list(answers) == [Accepted(id="1", position=0), Canceled(id="1")]


def test_a_cancel_that_was_begun_on_the_old_link_goes_on_to_the_new_one(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, is_back = threading.Event(), threading.Event()
    cancel = Link.cancel

    def cancel_late(link: Link, request_id: str) -> None:
        begun.set()
        assert is_back.wait(PATIENCE_S)
        cancel(link, request_id)

    def goes_on(peer: Any) -> None:
        assert begun.wait(PATIENCE_S)
        is_asked_to_cancel(peer)

    monkeypatch.setattr(Link, "cancel", cancel_late)
    stage.play(broken_after(Accepted(id="1", position=0)), goes_on)
    with client_of(stage) as client:
        answers = client.generate(request())
        wait_until_broken(client)
        thread, _ = in_thread(answers.cancel)
        assert begun.wait(PATIENCE_S)
        client.connect()  # waits until it has come back
        wait_for_thread("runai-client-returning")  # which asks again for earlier cancels
        is_back.set()
        thread.join(PATIENCE_S)
        assert list(answers) == [Accepted(id="1", position=0), Canceled(id="1")]


def wait_for_thread(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(PATIENCE_S)


def slow_to_use(monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    """The link of this number is taken into use no sooner than it has broken."""
    ask, links = Link.ask, itertools.count()

    def ask_slowly(link: Link, *question: Any) -> Any:
        answer = ask(link, *question)
        if question[1] == "hello" and next(links) == which:
            link._reader.join(PATIENCE_S)
        return answer

    monkeypatch.setattr(Link, "ask", ask_slowly)


def test_a_link_that_breaks_before_it_is_used_leaves_what_it_had_to_the_next(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_again(peer: Any) -> None:
        welcome(peer, "1", "2")
        peer.say(Progress(id="1", step=1, total=2), completed("2"))
        assert received(peer, "2")
        reset(peer)

    def goes_on(peer: Any) -> None:
        welcome(peer, "1", "2")  # as if it had not heard that the answer was received
        assert peer.read() == {"type": "cancel", "id": "2"}
        peer.say(completed("2"), Progress(id="1", step=2, total=2), completed("1"))
        assert received(peer, "2") and received(peer, "1")
        peer.wait_until_left()

    slow_to_use(monkeypatch, 1)
    before = [Accepted(id="1", position=0), Accepted(id="2", position=1)]
    stage.play(broken_after(*before, requests=2), breaks_again, goes_on)
    with client_of(stage) as client:
        one, two = client.generate(request("1")), client.generate(request("2"))
        wait_until_broken(client)
        steps = [Progress(id="1", step=step, total=2) for step in (1, 2)]
        assert list(two) == [Accepted(id="2", position=1), completed("2")]
        assert list(one) == [Accepted(id="1", position=0), *steps, completed("1")]


def test_a_server_that_is_too_slow_to_greet_who_comes_back_is_asked_again(stage: Any) -> None:
    def is_slow(peer: Any) -> None:
        peer.wait_until_left()

    def goes_on(peer: Any) -> None:
        welcome(peer, "1")
        peer.say(completed("1"))
        assert received(peer, "1")
        peer.wait_until_left()

    stage.play(broken_after(), is_slow, goes_on)
    with client_of(stage, timeout_s=0.3) as client:
        answers = client.generate(request())
        wait_until_broken(client)
        assert list(answers) == [completed("1")]


def test_an_id_whose_old_answer_is_still_to_come_again_is_in_use_until_then(stage: Any) -> None:
    """The break has lost its confirmation; nothing else was open, so the next call connects."""
    may_say = threading.Event()

    def breaks(peer: Any) -> None:
        welcome(peer)
        peer.read()
        peer.say(completed("1"))
        assert received(peer, "1")
        reset(peer)

    def goes_on(peer: Any) -> None:
        welcome(peer, "1")
        assert peer.read() == {"type": "cancel", "id": "1"}
        assert may_say.wait(PATIENCE_S)
        peer.say(completed("1"))
        assert {peer.read()["type"] for _ in range(2)} == {"received", "status"}
        peer.say(STATUS)
        assert peer.read()["prompt"] == "another"
        peer.say(failed(ModelNotFound("No."), "1"))
        peer.wait_until_left()

    stage.play(breaks, goes_on)
    with client_of(stage) as client:
        assert list(client.generate(request())) == [completed("1")]
        wait_for_thread("runai-client-reader")
        another = TextToImage(id="1", prompt="another")
        with pytest.raises(DuplicateId):
            client.generate(another)
        may_say.set()
        assert client.status() == STATUS
        assert [event.type for event in client.generate(another)] == ["failed"]


def test_a_connection_that_breaks_again_on_coming_back_is_tried_once_more(stage: Any) -> None:
    def breaks_again(peer: Any) -> None:
        peer.read()
        reset(peer)

    def goes_on(peer: Any) -> None:
        welcome(peer, "1")
        peer.say(completed("1"))
        assert received(peer, "1")
        peer.wait_until_left()

    stage.play(broken_after(), breaks_again, breaks_again, goes_on)
    with client_of(stage) as client:
        answers = client.generate(request())
        wait_until_broken(client)
        assert list(answers) == [completed("1")]


def test_who_is_not_let_in_any_more_is_told_at_once(stage: Any) -> None:
    stage.play(broken_after(), lambda peer: peer.say(failed(Unauthorized("The token is wrong."))))
    with client_of(stage) as client:
        answers = client.generate(request())
        wait_until_broken(client)
        with pytest.raises(ConnectionLost, match=r"request is lost: The token is wrong\."):
            list(answers)


def test_after_as_long_as_the_server_waits_the_client_gives_up(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runai.client.client.RETURN_MARGIN_S", 0.0)

    def breaks(peer: Any) -> None:
        welcome(peer, resume_s=0.4)
        peer.read()
        stage.close_listener()
        reset(peer)

    stage.play(breaks)
    with client_of(stage) as client:
        with pytest.raises(ConnectionLost, match="could not be made again"):
            list(client.generate(request()))
        with pytest.raises(ConnectionLost, match="No server answers"):
            client.status()


def test_closing_ends_the_coming_back(stage: Any) -> None:
    def breaks(peer: Any) -> None:
        welcome(peer, resume_s=600.0)
        peer.read()
        stage.close_listener()
        reset(peer)

    stage.play(breaks)
    before = set(threading.enumerate())
    client = client_of(stage)
    thread, results = in_thread(lambda: list(client.generate(request())))
    stage.end()
    client.close()
    thread.join(PATIENCE_S)
    assert isinstance(results[0], ConnectionLost)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    "why", ["the server closes", "it keeps nothing", "it is this computer", "an observer"]
)
def test_where_there_is_nothing_to_come_back_to_requests_are_lost_at_once(
    stage: Any, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    def script(peer: Any) -> None:
        secret = welcome(peer, resume_s=0.0 if why == "it keeps nothing" else 600.0)
        assert (secret == "None") is (why == "an observer")
        peer.read()
        if why != "the server closes":
            reset(peer)

    monkeypatch.setattr(PlainStream, "is_here", why == "it is this computer")
    stage.play(script)
    with client_of(stage, observer=why == "an observer") as client:
        with pytest.raises(ConnectionLost, match=r"closed the connection|Connection reset"):
            list(client.generate(request()))
        stage.end()
