"""The client against a peer that says what the test wants, over real sockets."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from runai.client import Client
from runai.errors import (
    ConnectionLost,
    DuplicateId,
    InvalidField,
    ModelNotFound,
    RunAIError,
    TooManyConnections,
    WireError,
)
from runai.schema.events import (
    Accepted,
    Canceled,
    Completed,
    ErrorBody,
    Failed,
    ModelInfo,
    Models,
    Parameters,
    Picture,
    Progress,
    Status,
)
from runai.schema.requests import TextToImage

PARAMETERS = Parameters(
    task="txt2img",
    model="m",
    prompt="p",
    negative_prompt="",
    num_inference_steps=1,
    guidance_scale=1.0,
    sampler="euler",
    eta=0.0,
    seed=5,
    num_images=1,
    width=64,
    height=64,
)
STATUS = Status(
    state="ready", detail="", clients=1, queued=0, running=0, loaded_models=[], uptime_s=1.0
)


def request(request_id: str = "1") -> TextToImage:
    return TextToImage(id=request_id, prompt="a red circle")


def completed(request_id: str) -> Completed:
    picture = Picture(png=b"png of " + request_id.encode(), seed=5)
    return Completed(id=request_id, images=[picture], parameters=PARAMETERS)


def failed(error: RunAIError, request_id: str | None = None) -> Failed:
    return Failed(id=request_id, error=ErrorBody.of(error))


def client_of(stage: Any, **more: Any) -> Client:
    more = {"packet_size": stage.packet_size, "backoff_s": (0.0, 0.0), **more}
    return Client("127.0.0.1", stage.port, **more)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run on a thread of its own; what it gives or raises is put into the list."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except RunAIError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@pytest.mark.parametrize("packet_size", [16, 1024, 65536])
def test_a_request_is_followed_from_accepted_to_completed(stage: Any, packet_size: int) -> None:
    stage.packet_size = packet_size

    def script(peer: Any) -> None:
        peer.welcome()
        sent = peer.read()
        assert (sent["type"], sent["task"], sent["prompt"]) == (
            "generate",
            "txt2img",
            "a red circle",
        )
        peer.say(Accepted(id="1", position=0), Progress(id="1", step=1, total=2), completed("1"))
        peer.wait_until_left()

    stage.play(script)
    with client_of(stage) as client:
        assert client.connect().server_version == "9"
        events = list(client.generate(request()))
    assert [event.type for event in events] == ["accepted", "progress", "completed"]
    assert events[-1] == completed("1")


def test_a_failure_is_the_last_event_and_turns_into_its_exception(stage: Any) -> None:
    def script(peer: Any) -> None:
        peer.welcome()
        peer.read()
        peer.say(Accepted(id="1", position=0), failed(ModelNotFound("No."), "1"))
        peer.wait_until_left()

    stage.play(script)
    with client_of(stage) as client:
        *_, last = client.generate(request())
    assert isinstance(last, Failed)
    assert isinstance(last.error.to_exception(), ModelNotFound)


def test_answers_to_several_requests_find_their_own_threads(stage: Any) -> None:
    ids = [str(number) for number in range(8)]

    def script(peer: Any) -> None:
        peer.welcome()
        came = [peer.read()["id"] for _ in ids]
        peer.say(*(Accepted(id=of, position=0) for of in came))
        peer.say(*(Progress(id=of, step=1, total=1) for of in came))
        peer.say(*(completed(of) for of in reversed(came)))
        peer.wait_until_left()

    stage.play(script)
    with client_of(stage) as client:
        started = [in_thread(lambda of=of: list(client.generate(request(of)))) for of in ids]
        for thread, _ in started:
            thread.join(10)
    for of, (_, results) in zip(ids, started, strict=True):
        assert [event.type for event in results[0]] == ["accepted", "progress", "completed"]
        assert results[0][-1].images[0].png == b"png of " + of.encode()


def test_status_and_models_are_answered_beside_a_request(stage: Any) -> None:
    info = ModelInfo(name="v1/x", version="v1", format="ckpt")

    def script(peer: Any) -> None:
        peer.welcome()
        assert [peer.read()["type"] for _ in range(2)] == ["generate", "status"]
        peer.say(Accepted(id="1", position=0), STATUS)
        assert peer.read()["type"] == "models"
        peer.say(Progress(id="1", step=1, total=1), Models(models=[info]), completed("1"))
        peer.wait_until_left()

    stage.play(script)
    with client_of(stage) as client:
        answers = client.generate(request())
        assert client.status() == STATUS
        assert client.models() == [info]
        assert len(list(answers)) == 3


def test_a_cancel_names_the_request_and_its_last_answer_still_comes(stage: Any) -> None:
    def script(peer: Any) -> None:
        peer.welcome()
        peer.read()
        peer.say(Accepted(id="1", position=0))
        assert peer.read() == {"type": "cancel", "id": "1"}
        peer.say(Canceled(id="1"))
        peer.wait_until_left()

    stage.play(script)
    with client_of(stage) as client:
        answers = client.generate(request())
        assert next(answers) == Accepted(id="1", position=0)
        client.cancel("1")
        assert list(answers) == [Canceled(id="1")]


def test_leaving_a_request_unfinished_cancels_it(stage: Any) -> None:
    def script(peer: Any) -> None:
        peer.welcome()
        peer.read()
        peer.say(Accepted(id="1", position=0))
        assert peer.read() == {"type": "cancel", "id": "1"}
        peer.say(Canceled(id="1"))
        assert peer.read()["type"] == "status"
        peer.say(STATUS)
        peer.wait_until_left()

    stage.play(script)
    with client_of(stage) as client:
        with client.generate(request()) as answers:
            next(answers)
        assert client.status() == STATUS


def test_an_id_that_is_open_is_refused_before_it_is_sent(stage: Any) -> None:
    def script(peer: Any) -> None:
        peer.welcome()
        peer.read()
        peer.say(completed("1"))
        assert peer.read()["id"] == "1"
        peer.say(completed("1"))
        peer.wait_until_left()

    stage.play(script)
    with client_of(stage) as client:
        answers = client.generate(request())
        next(answers)  # over: the id is free again
        again = client.generate(request())
        assert next(again) == completed("1")


def test_two_open_requests_cannot_share_an_id(stage: Any) -> None:
    def script(peer: Any) -> None:
        peer.welcome()
        peer.wait_until_left()

    stage.play(script)
    with client_of(stage) as client:
        client.generate(request())
        with pytest.raises(DuplicateId):
            client.generate(request())


def test_a_connection_that_breaks_raises_for_every_open_request(stage: Any) -> None:
    both_are_there = threading.Event()

    def script(peer: Any) -> None:
        peer.welcome()
        peer.read()
        peer.read()
        peer.say(Accepted(id="1", position=0))
        assert both_are_there.wait(10)

    stage.play(script)
    with client_of(stage) as client:
        first, second = client.generate(request("1")), client.generate(request("2"))
        assert next(first) == Accepted(id="1", position=0)
        both_are_there.set()
        for answers in (first, second):
            with pytest.raises(ConnectionLost):
                next(answers)
            assert list(answers) == []


def test_a_question_on_a_connection_that_breaks_raises(stage: Any) -> None:
    def script(peer: Any) -> None:
        peer.welcome()
        assert peer.read()["type"] == "models"

    stage.play(script)
    with client_of(stage) as client, pytest.raises(ConnectionLost):
        client.models()


def test_the_next_call_after_a_broken_connection_makes_a_new_one(stage: Any) -> None:
    def leaves(peer: Any) -> None:
        peer.welcome()
        peer.read()

    def stays(peer: Any) -> None:
        peer.welcome()
        assert peer.read()["id"] == "2"
        peer.say(completed("2"))
        peer.wait_until_left()

    stage.play(leaves, stays)
    with client_of(stage) as client:
        with pytest.raises(ConnectionLost):
            next(client.generate(request("1")))
        assert list(client.generate(request("2"))) == [completed("2")]


def test_a_lost_server_is_tried_again_so_many_times_and_no_more(stage: Any) -> None:
    refusals: list[str] = []

    def leaves(peer: Any) -> None:
        peer.welcome()
        peer.read()

    def refuses(peer: Any) -> None:
        refusals.append(peer.read()["type"])

    stage.play(leaves, refuses, refuses, refuses)
    with client_of(stage, backoff_s=(0.0, 0.0)) as client:
        with pytest.raises(ConnectionLost):
            client.status()
        with pytest.raises(ConnectionLost):
            client.status()
    assert refusals == ["hello"] * 3  # one attempt and one after each pause


def test_a_server_that_is_not_there_is_said_at_once_and_by_name(stage: Any) -> None:
    stage.close_listener()
    with client_of(stage, backoff_s=(60.0,)) as client, pytest.raises(ConnectionLost) as caught:
        client.connect()
    assert f"127.0.0.1, port {stage.port}" in str(caught.value)
    assert "runai serve" in caught.value.hint


def test_a_server_that_does_not_answer_hello_is_given_up(stage: Any) -> None:
    stage.play(lambda peer: peer.wait_until_left())
    with client_of(stage, timeout_s=0.05) as client, pytest.raises(ConnectionLost, match=r"0\.05"):
        client.connect()


def test_being_refused_on_connecting_raises_the_reason(stage: Any) -> None:
    stage.play(lambda peer: peer.say(failed(TooManyConnections("Full."))))
    with client_of(stage) as client, pytest.raises(TooManyConnections, match="Full"):
        client.connect()


def test_a_failure_without_id_belongs_to_what_was_sent_first(stage: Any) -> None:
    def script(peer: Any) -> None:
        peer.welcome()
        peer.read()
        peer.say(Accepted(id="1", position=0))
        peer.read()
        peer.read()
        peer.say(failed(InvalidField("Wrong.")), STATUS, completed("1"))
        peer.wait_until_left()

    stage.play(script)
    with client_of(stage) as client:
        first = client.generate(request("1"))
        next(first)
        second = client.generate(request("2"))
        assert client.status() == STATUS
        assert [event.type for event in second] == ["failed"]
        assert list(first) == [completed("1")]


def test_what_the_server_says_before_it_closes_is_the_reason(stage: Any) -> None:
    def script(peer: Any) -> None:
        peer.welcome()
        peer.read()
        peer.say(Accepted(id="1", position=0), failed(WireError("Nonsense.")))

    stage.play(script)
    with client_of(stage) as client:
        answers = client.generate(request())
        next(answers)
        with pytest.raises(WireError, match="Nonsense"):
            next(answers)


def test_kinds_of_messages_that_are_not_known_are_skipped(stage: Any) -> None:
    def script(peer: Any) -> None:
        peer.welcome()
        peer.read()
        peer.say(b'{"type": "weather"}', b'{"image": "x"}', completed("1"), completed("other"))
        peer.read()
        peer.say(STATUS)
        peer.wait_until_left()

    stage.play(script)
    with client_of(stage) as client:
        assert list(client.generate(request())) == [completed("1")]
        assert client.status() == STATUS


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"type": "progress", "id": "1"}'])
def test_nonsense_from_a_server_raises_and_does_not_hang(stage: Any, body: bytes) -> None:
    def script(peer: Any) -> None:
        peer.welcome()
        peer.read()
        peer.say(body)
        peer.wait_until_left()

    stage.play(script)
    with client_of(stage) as client, pytest.raises(WireError, match="cannot be understood"):
        next(client.generate(request()))


def test_closing_on_another_thread_releases_who_waits(stage: Any) -> None:
    there = threading.Event()

    def script(peer: Any) -> None:
        peer.welcome()
        peer.read()
        there.set()
        peer.wait_until_left()

    stage.play(script)
    client = client_of(stage)
    thread, results = in_thread(lambda: next(client.generate(request())))
    assert there.wait(10)
    client.close()
    thread.join(10)
    assert isinstance(results[0], ConnectionLost)
    assert "closed" in results[0].message
    client.close()
    with pytest.raises(ConnectionLost, match="closed"):
        client.status()


def test_threads_that_start_together_share_one_connection(stage: Any) -> None:
    def script(peer: Any) -> None:
        peer.welcome()
        for _ in range(4):
            assert peer.read()["type"] == "status"
            peer.say(STATUS)
        peer.wait_until_left()

    stage.play(script)
    with client_of(stage) as client:
        started = [in_thread(client.status) for _ in range(4)]
        for thread, results in started:
            thread.join(10)
            assert results == [STATUS]


def test_no_thread_is_left_behind(stage: Any) -> None:
    def script(peer: Any) -> None:
        peer.welcome()
        peer.wait_until_left()

    before = set(threading.enumerate())
    stage.play(script)
    with client_of(stage) as client:
        client.connect()
        names = {thread.name for thread in set(threading.enumerate()) - before}
        assert {"runai-client-reader", "runai-client-writer"} <= names
    stage.end()
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("refused", ["runai-client-writer", "runai-client-reader"])
def test_where_no_thread_can_be_had_no_socket_and_no_thread_is_left(
    stage: Any, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    left: list[bool] = []
    start = threading.Thread.start

    def start_others(thread: threading.Thread) -> None:
        if thread.name == refused:
            raise RuntimeError("can't start new thread")
        start(thread)

    stage.play(lambda peer: left.append(peer.read() == {}))
    before = set(threading.enumerate())
    monkeypatch.setattr(threading.Thread, "start", start_others)
    with client_of(stage) as client:
        with pytest.raises(ConnectionLost, match="No more threads") as caught:
            client.connect()
        stage.end()  # while the error is held, and with it all that it came by
    assert left == [True]
    assert set(threading.enumerate()) <= before
    assert caught.value.code == ConnectionLost.code


def test_the_library_imports_nothing_heavy() -> None:
    program = (
        "import sys, runai.client\n"
        "heavy = {'torch', 'numpy', 'PIL', 'runai.jobs', 'runai.engine', 'runai.transports'}\n"
        "print(*(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == ""
