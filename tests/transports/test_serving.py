"""What clients ask and get, over real sockets."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections import Counter
from typing import Any

import pytest

from runai.schema.events import Completed, ModelInfo, Picture
from runai.schema.limits import Limits
from runai.testing.scripted import Fault, ScriptedEngine
from tests.transports.clients import (
    LAST,
    PATIENCE_S,
    NaiveReader,
    RawClient,
    generate,
    plugin_request,
    png,
)
from tests.transports.conftest import Serve

MEGABYTE_PNG = b"\x89PNG" + bytes(range(256)) * 2950  # 1 MB as base64


def test_a_client_is_greeted_in_the_plugins_words(serve: Serve) -> None:
    with serve().client() as client:
        greeting = client.receive()
        assert greeting is not None
        assert set(greeting["versions"]) == {
            "latest_ksd_version",
            "latest_runai_version",
            "current_runai_version",
        }


def test_a_request_is_accepted_reported_on_and_completed(serve: Serve) -> None:
    with serve().client() as client:
        client.hello()
        client.send(generate("a"))
        kinds = [client.receive_type("accepted", "loading", "progress", *LAST) for _ in range(3)]
        assert kinds[0] == {"type": "accepted", "id": "a", "position": 0}
        while kinds[-1]["type"] != "completed":
            kinds.append(client.receive_type("progress", *LAST))
        assert base64.b64decode(kinds[-1]["images"][0]["png"]).startswith(b"\x89PNG")


@pytest.mark.parametrize("packet_size", [1, 7, 1024, 100_000])
def test_any_packet_size_serves(serve: Serve, packet_size: int) -> None:
    with serve(packet_size=packet_size).client() as client:
        client.hello()
        assert client.ask(generate())["type"] == "completed"


def test_a_server_on_localhost_serves_both_loopbacks(serve: Serve) -> None:
    port = serve(host="localhost").port
    for host in ("127.0.0.1", "::1"):
        with RawClient(port, host=host) as client:
            assert client.ask(generate())["type"] == "completed"


def test_hello_says_what_the_server_can_do_while_the_engine_starts(serve: Serve) -> None:
    engine, may_start = ScriptedEngine(), threading.Event()

    def make_engine() -> ScriptedEngine:
        assert may_start.wait(PATIENCE_S)
        return engine

    running = serve(engine, make_engine=make_engine, max_message_bytes=5000)
    with running.client() as client:
        hello = client.hello()
        assert hello["state"] == "starting"
        assert hello["capabilities"]["max_message_bytes"] == 5000
        may_start.set()
        client.send({"type": "models"})
        assert [m["name"] for m in client.receive_type("models")["models"]] == ["shapes", "other"]
        assert client.hello()["state"] == "ready"


def test_status_counts_clients(serve: Serve) -> None:
    running = serve()
    with running.client() as client, running.client() as other:
        other.hello()
        client.send({"type": "status"})
        assert client.receive_type("status")["clients"] == 2


def test_several_clients_are_served_at_once(serve: Serve) -> None:
    running = serve()
    clients = [running.client() for _ in range(8)]
    for number, client in enumerate(clients):
        client.send(generate(f"r{number}", prompt=f"picture {number}"))
    for number, client in enumerate(clients):
        last = client.receive_type(*LAST)
        assert (last["type"], last["id"]) == ("completed", f"r{number}")
        assert last["parameters"]["prompt"] == f"picture {number}"
        client.close()


# Wrong messages. Each is answered, and the next request on the same connection is served.

BODIES: dict[str, tuple[bytes, str, str | None]] = {
    "an empty message": (b"", "invalid_json", None),
    "half a message": (b'{"type": "gen', "invalid_json", None),
    "no UTF-8": (b'{"type": "\xff"}', "invalid_json", None),
    "very deep": (b"[" * 100_000, "too_deep", None),
    "a list": (b"[1]", "invalid_json", None),
    "text": (b'"hello"', "invalid_json", None),
    "a text": (b'"text"', "invalid_json", None),
}
MESSAGES: dict[str, tuple[Any, str, str | None]] = {
    "nothing known": ({}, "unknown_action", "action"),
    "an unknown type": ({"type": "dance"}, "unknown_action", "type"),
    "a type of the wrong type": ({"type": 5}, "unknown_action", "type"),
    "text for steps": (generate(num_inference_steps="x"), "invalid_field", "num_inference_steps"),
    "a number for a prompt": (generate(prompt=5), "invalid_field", "prompt"),
    "no width at all": (generate(width=0), "invalid_field", "width"),
    "a huge width": (generate(width=100_000), "invalid_field", "width"),
    "too many pixels": (generate(width=4096, height=4096), "too_many_pixels", "width"),
    "a field that does not exist": (generate(color="red"), "invalid_field", "color"),
    "an unknown model": (generate(model="none"), "model_not_found", "model"),
    "an image that is no base64": (
        generate(task="img2img", image="!"),
        "invalid_field",
        "image",
    ),
    "a null mask": (
        generate(task="inpaint", image=png(), mask_image=None),
        "invalid_field",
        "mask_image",
    ),
    "the plugin's unknown action": ({"action": "dance", "options": {}}, "unknown_action", "action"),
    "an action that is no text": ({"action": ["a"], "options": {}}, "unknown_action", "action"),
    "the plugin's options missing": ({"action": "txt2img"}, "invalid_field", "options"),
    "the plugin's options as a list": (
        {"action": "txt2img", "options": []},
        "invalid_field",
        "options",
    ),
    "the plugin's steps as a word": (
        plugin_request(txt2img_steps="many"),
        "invalid_field",
        "txt2img_steps",
    ),
    "the plugin's missing pixels": (plugin_request("img2img"), "invalid_field", "pixels"),
    "the plugin's null mask": (
        plugin_request("inpaint", pixels=png(), mask=None),
        "invalid_field",
        "mask",
    ),
    "the plugin's update": ({"action": "update"}, "not_offered", "action"),
}
ALL = {
    **BODIES,
    **{name: (json.dumps(m).encode(), code, field) for name, (m, code, field) in MESSAGES.items()},
}


@pytest.mark.parametrize(("body", "code", "field"), ALL.values(), ids=ALL)
def test_a_wrong_message_is_answered_and_the_next_is_served(
    serve: Serve, body: bytes, code: str, field: str | None
) -> None:
    with serve().client() as client:
        client.send_body(body)
        error = client.receive_type("failed")["error"]
        assert (error["code"], error.get("field")) == (code, field)
        assert error["message"] and error["hint"]
        assert client.ask(generate("next"))["type"] == "completed"


def test_a_failed_message_is_named_by_its_id(serve: Serve) -> None:
    with serve().client() as client:
        assert client.ask(generate("mine", width=1))["id"] == "mine"
        assert "id" not in client.ask({"type": "dance", "id": 5})


def test_an_id_that_cannot_be_sent_back_is_answered_without_it(serve: Serve) -> None:
    with serve().client() as client:
        answer = client.ask(generate("\ud800"))
        assert (answer["type"], answer.get("id")) == ("failed", None)
        assert client.ask(generate())["type"] == "completed"


@pytest.mark.parametrize(
    "second",
    [
        {"type": "cancel", "id": "r", "reason": "x"},
        generate("r", sampler="none"),
        generate("r", num_inference_steps=900),
    ],
)
def test_a_bad_message_with_an_open_id_is_not_taken_for_that_requests_answer(
    serve: Serve, second: dict[str, Any]
) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    with serve(engine).client() as client:
        client.hello()
        client.send(generate("r"))
        client.receive_type("accepted")
        client.send(second)
        assert "id" not in client.receive_type("failed")
        engine.gate.open()
        assert client.receive_type(*LAST)["type"] == "completed"


def test_an_answer_that_no_json_can_hold_is_a_failure_and_the_next_is_served(serve: Serve) -> None:
    def unreadable(*_: object) -> list[ModelInfo]:
        return [ModelInfo(name="\ud800", version="v1", format="ckpt")]

    engine = ScriptedEngine()
    engine.models = unreadable  # type: ignore[method-assign]
    with serve(engine).client() as client:
        client.send({"type": "models"})
        failed = client.receive_type("failed")
        assert (failed["error"]["code"], failed.get("id")) == ("internal", None)
        assert client.ask(generate())["type"] == "completed"


class Unwritable(ScriptedEngine):
    """Loads a model that cannot be named, and notes what cannot be read."""

    def model_of(self, request: Any) -> str:
        return "\ud800"

    def step(self) -> Any:
        for drawing in self._drawings.values():
            drawing.notes = ["\udfff"]
        return super().step()


def test_a_request_whose_answers_no_json_can_hold_has_one_last_answer(serve: Serve) -> None:
    with serve(Unwritable()).client() as client:
        client.hello()
        for wanted in ("a", "b"):
            client.send(generate(wanted))
            said = [client.receive_type("accepted", "loading", *LAST) for _ in range(2)]
            assert [(one["type"], one["id"]) for one in said] == [
                ("accepted", wanted),
                ("failed", wanted),
            ]


def test_a_fault_while_an_answer_is_written_ends_the_connection(serve: Serve) -> None:
    class Formless(ScriptedEngine):
        def step(self) -> Any:
            text = Picture.model_construct(png="no bytes", seed=1)
            done = [(key, event) for key, event in super().step() if isinstance(event, Completed)]
            return [(key, event.model_copy(update={"images": [text]})) for key, event in done]

    with serve(Formless()).client() as client:
        client.send(plugin_request())
        while client.receive() is not None:
            pass


def test_an_id_in_use_is_refused_without_ending_the_request_that_has_it(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    with serve(engine).client() as client:
        client.send(generate("twice"))
        refused = client.ask(generate("twice"))
        assert refused["error"]["code"] == "duplicate_id"
        assert "id" not in refused
        engine.gate.open()
        last = client.receive_type(*LAST)
        assert (last["type"], last["id"]) == ("completed", "twice")


def test_a_message_that_is_too_large_is_refused_and_the_next_is_served(serve: Serve) -> None:
    with serve(max_message_bytes=4096).client() as client:
        client.send(generate(prompt="a" * 1_000_000))
        assert client.receive_type("failed")["error"]["code"] == "message_too_large"
        assert client.ask(generate())["type"] == "completed"


def test_a_message_is_nested_as_deeply_as_the_server_is_set_to(serve: Serve) -> None:
    server = serve()
    server.service.limits = Limits(max_json_depth=9)
    with server.client() as client:
        for depth, code in ((8, "invalid_json"), (9, "invalid_json"), (10, "too_deep")):
            client.send_body(b"[" * depth + b"]" * depth)
            assert client.receive_type("failed")["error"]["code"] == code


def test_a_truncated_message_is_answered_to_who_still_reads(serve: Serve) -> None:
    running = serve()
    with running.client() as client:
        client.sock.sendall(b'{"type": "gen')
        client.sock.shutdown(socket.SHUT_WR)
        assert client.receive_type("failed")["error"]["code"] == "truncated"
        assert client.receive() is None
    with running.client() as client:
        assert client.ask(generate())["type"] == "completed"


class BrokenCatalogue(ScriptedEngine):
    def models(self) -> Any:
        raise ZeroDivisionError


def test_a_fault_of_the_servers_own_is_one_messages_failure(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(BrokenCatalogue()).client() as client:
        client.ask(generate())
        client.send({"type": "models"})
        assert client.receive_type("failed")["error"]["code"] == "internal"
        assert client.ask(generate())["type"] == "completed"
    assert "ZeroDivisionError" in caplog.text


def test_an_engine_fault_is_told_to_its_client(serve: Serve) -> None:
    engine = ScriptedEngine(faults={"bad": Fault(MemoryError())})
    with serve(engine).client() as client:
        assert client.ask(generate("bad"))["error"]["code"] == "out_of_memory"
        assert client.ask(generate("good"))["type"] == "completed"


# Ending requests.


def test_a_request_is_canceled_by_its_id(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    with serve(engine).client() as client:
        client.send(generate("a"))
        client.send(generate("b"))
        engine.gate.wait_until_reached()
        client.send({"type": "cancel", "id": "a"})
        assert client.receive_type(*LAST) == {"type": "canceled", "id": "a"}
        engine.gate.open()
        assert client.receive_type(*LAST)["id"] == "b"


def test_canceling_what_is_not_there_is_not_answered(serve: Serve) -> None:
    with serve().client() as client:
        client.send({"type": "cancel", "id": "a"})
        assert client.ask(generate("a"))["type"] == "completed"


def test_a_cancel_packet_ends_all_requests_of_its_client_alone(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    running = serve(engine)
    with running.client() as client, running.client() as other:
        other.send(generate("other"))
        other.receive_type("accepted")
        for request_id in ("a", "b"):
            client.send(generate(request_id))
            client.receive_type("accepted")
        client.core.send_cancel()
        client.flush()
        ended = [client.receive_type(*LAST) for _ in range(2)]
        assert {(e["type"], e["id"]) for e in ended} == {("canceled", "a"), ("canceled", "b")}
        engine.gate.open()
        assert other.receive_type(*LAST)["type"] == "completed"


# The plugin.


def test_the_plugin_gets_progress_and_its_image_where_it_belongs(serve: Serve) -> None:
    with serve().client() as client:
        client.send(plugin_request("img2img", pixels=png()))
        reader = NaiveReader(client.sock)
        assert "versions" in reader.read_message()
        message = reader.read_message()
        while "image" not in message:
            assert set(message) == {"action", "reqtype", "step", "total"}
            assert (message["action"], message["reqtype"]) == (4, "img2img")
            message = reader.read_message()
        assert {key: message[key] for key in ("reqtype", "pos_x", "pos_y")} == {
            "reqtype": "img2img",
            "pos_x": 3,
            "pos_y": 4,
        }


def test_the_plugin_loses_none_of_two_hundred_large_replies(serve: Serve) -> None:
    engine = ScriptedEngine(draw=lambda *_: MEGABYTE_PNG)
    wanted = base64.b64encode(MEGABYTE_PNG).decode()
    assert len(wanted) > 1_000_000
    with serve(engine).client() as client:
        for _ in range(13):
            client.send(plugin_request(txt2img_n_samples="16"))
        reader = NaiveReader(client.sock)
        kinds: Counter[str] = Counter()
        while kinds["image"] < 13 * 16:
            message = reader.read_message()
            kinds["image" if "image" in message else "other"] += 1
            assert message.get("image", wanted) == wanted
        assert kinds["other"] > 0
