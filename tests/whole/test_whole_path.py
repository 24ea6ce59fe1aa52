"""From the socket to the pixels and back: the real engine behind the real server."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from drawn import Pixels, as_base64, half_mask, photo
from PIL import Image

from runai.client import Client
from runai.engine.engine import TorchEngine
from runai.jobs.service import Service
from runai.schema.codec import parse_task
from runai.schema.events import Completed, JobEvent, Progress
from runai.transports.listener import bind
from runai.transports.socket_server import SocketOptions, SocketServer
from tests.transports.clients import NaiveReader, RawClient, plugin_request

torch.set_num_threads(1)


class Whole:
    """A running server with the real engine, and that engine for a look inside."""

    def __init__(self, models: Path) -> None:
        self.engine: TorchEngine | None = None

        def make() -> TorchEngine:
            self.engine = TorchEngine(models, device="cpu", dtype="fp32")
            return self.engine

        self.service = Service(make)
        self.server = SocketServer(
            bind("127.0.0.1", 0), self.service, SocketOptions(keep_alive=True)
        )
        self.port = self.server.port
        self._thread = threading.Thread(target=self.server.run)
        self.service.start()
        self._thread.start()

    def end(self) -> None:
        self.server.stop()
        self.service.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    base = tmp_path_factory.mktemp("models")
    tiny.write_model(base / "v1" / "plain")
    tiny.write_model(base / "v2" / "velocity", prediction="v_prediction", seed=2)
    whole = Whole(base)
    yield whole
    whole.end()


def ask(client: Client, **fields: Any) -> list[JobEvent]:
    fields = {"id": "r", "model": "v1/plain", "num_inference_steps": 4, "seed": 7, **fields}
    return list(client.generate(parse_task({"task": "txt2img", **fields})))


def image_of(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def transparent() -> Image.Image:
    image = photo().convert("RGBA")
    image.putalpha(half_mask().point(lambda v: 255 - v))
    return image


PLUGIN: dict[str, dict[str, Any]] = {
    "txt2img": {},
    "img2img": {"pixels": as_base64(photo()), "mask": None, "img2img_strength": "0.75"},
    "inpaint": {"pixels": as_base64(photo()), "mask": as_base64(half_mask())},
    "outpaint": {
        "pixels": as_base64(transparent()),
        "mask": as_base64(half_mask().convert("RGB")),
    },
}


@pytest.mark.parametrize("action", PLUGIN)
def test_the_plugin_gets_its_picture(server: Whole, action: str) -> None:
    with RawClient(server.port) as sender:
        reader = NaiveReader(sender.sock)
        greeting = reader.read_message()
        assert set(greeting) == {"versions"}
        sender.send(
            plugin_request(
                action,
                **PLUGIN[action],
                model="stabilityai/stable-diffusion-2-1-base/v2-1",
                model_path="",
                model_base_path="",
                version="v1",
                do_nsfw_filter="false",
            )
        )
        bars = []
        while "image" not in (message := reader.read_message()):
            assert set(message) == {"action", "reqtype", "step", "total"}, message
            bars.append((message["step"], message["total"]))
    assert (message["reqtype"], message["pos_x"], message["pos_y"]) == (action, 3, 4)
    assert all(step < total for step, total in bars if total)
    total = bars[-1][1]
    assert bars[-1] == (total - 1, total), "the bar is full"
    image = image_of(message["image"])
    assert (image.mode, image.size) == ("RGB", (64, 64))


def test_the_plugin_gets_one_message_for_each_of_its_samples(server: Whole) -> None:
    with RawClient(server.port) as sender:
        reader = NaiveReader(sender.sock)
        reader.read_message()
        request = plugin_request(model="v1/plain", model_base_path="/x", txt2img_n_samples="3")
        sender.send(request)
        images: set[str] = set()
        while len(images) < 3:
            images |= {m["image"] for m in [reader.read_message()] if "image" in m}


def test_pictures_do_not_depend_on_who_else_is_drawing(server: Whole) -> None:
    def pixels(events: list[JobEvent]) -> Pixels:
        assert isinstance(events[-1], Completed), events[-1]
        image = Image.open(io.BytesIO(events[-1].images[0].png))
        return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int().numpy()

    prompts = [f"picture {letter}" for letter in "abcdef"]
    with Client("127.0.0.1", server.port) as client:
        alone = [pixels(ask(client, prompt=p, seed=i)) for i, p in enumerate(prompts)]
    together: dict[int, Pixels] = {}

    def one(i: int) -> None:
        with Client("127.0.0.1", server.port) as client:
            together[i] = pixels(ask(client, prompt=prompts[i], seed=i))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, picture in enumerate(alone):
        assert abs(picture - together[i]).max() <= 1
        assert picture.std() > 15


def test_a_cancel_comes_through_between_two_steps(server: Whole) -> None:
    with Client("127.0.0.1", server.port) as client:
        fields = {"id": "long", "task": "txt2img", "model": "v1/plain", "width": 256, "height": 256}
        answers = client.generate(parse_task({**fields, "num_inference_steps": 200}))
        events = []
        for event in answers:
            events.append(event)
            if isinstance(event, Progress):
                client.cancel("long")
        assert events[-1].type == "canceled"
        assert max(e.step for e in events if isinstance(e, Progress)) < 100
        assert isinstance(ask(client)[-1], Completed)


@pytest.mark.parametrize("how", ["close", "kill"])
def test_the_work_of_a_client_that_is_gone_stops(server: Whole, how: str) -> None:
    gone = RawClient(server.port)
    gone.hello()
    gone.send(
        {"type": "generate", "task": "txt2img", "id": "x", "model": "v1/plain"}
        | {"width": 512, "height": 512, "num_inference_steps": 200}
    )
    gone.receive_type("progress")
    getattr(gone, how)()
    with Client("127.0.0.1", server.port) as client:
        # a job of another client, drawn after the dead one's next step at the latest: when it
        # is done, the engine holds nothing of the dead one any more
        assert isinstance(ask(client)[-1], Completed)
        assert client.status().running == 0
    assert server.engine is not None
    assert not server.engine.is_busy()


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"model": "nope"}, "model_not_found", "model"),
        ({"task": "img2img", "image": "aGVsbG8="}, "invalid_image", "image"),
        ({"task": "img2img", "image": "%%%"}, "invalid_field", "image"),
        ({"width": 0}, "invalid_field", "width"),
        ({"width": 100_000}, "invalid_field", "width"),
        ({"width": 8192, "height": 8192}, "too_many_pixels", "width"),
        ({"num_inference_steps": "many"}, "invalid_field", "num_inference_steps"),
        ({"task": "inpaint", "image": as_base64(photo())}, "invalid_field", "mask_image"),
        ({"task": "paint"}, "invalid_field", "task"),
    ],
)
def test_bad_requests_name_the_field_and_the_next_one_is_served(
    server: Whole, fields: dict[str, Any], code: str, field: str
) -> None:
    base = {"type": "generate", "task": "txt2img", "id": "r", "model": "v1/plain"}
    small = {"num_inference_steps": 1, "width": 64, "height": 64}
    with RawClient(server.port) as client:
        client.hello()
        failed = client.ask({**base, **fields})
        assert (failed["type"], failed["id"]) == ("failed", "r")
        assert (failed["error"]["code"], failed["error"].get("field")) == (code, field)
        assert failed["error"]["message"] and failed["error"]["hint"]
        assert client.ask({**base, **small})["type"] == "completed"
