"""Requests for the engine, and the pictures that come of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from runai.engine.device_clock import DeviceClock
from runai.engine.devices import Place
from runai.engine.engine import TorchEngine
from runai.engine.model import LoadedModel
from runai.schema.codec import parse_task
from runai.schema.events import Completed, Failed, JobEvent
from runai.schema.late import made

Pixels = np.ndarray[Any, Any]


def photo(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """A smooth colourful picture."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def half_mask(width: int = 64, height: int = 64) -> Image.Image:
    """White (repaint) on the right half."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 2, 0, width, height))
    return mask


def as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def as_base64(image: Image.Image) -> str:
    return base64.b64encode(as_png(image)).decode()


def make_request(**fields: Any) -> Any:
    """A request with fields filled up for the task."""
    task = fields.setdefault("task", "txt2img")
    fields = {"id": "r", "model": "v1/plain", "num_inference_steps": 4, "seed": 7, **fields}
    if task != "txt2img":
        fields.setdefault("image", as_base64(photo()))
    if task in ("inpaint", "outpaint"):
        fields.setdefault("mask_image", as_base64(half_mask()))
    return parse_task(fields)


class Separate(Place):
    """A processor that is taken for a device with memory of its own."""

    has_own_memory = True


class Calls:
    """How many rows each call of a network has."""

    def __init__(self, network: Any) -> None:
        self.rows: list[int] = []
        network.register_forward_pre_hook(lambda _, args: self.rows.append(len(args[0])))


class Timed(Calls):
    """The calls of an engine's UNet, each of which takes as long as the test says."""

    def __init__(self, engine: TorchEngine, takes: Callable[[int], float]) -> None:
        unet = held(engine).unet
        super().__init__(unet)
        self._now = 0.0
        unet.register_forward_pre_hook(lambda _, args: self._pass(takes(len(args[0]))))
        engine._batches._clock = DeviceClock(lambda: self._now)
        engine._batches._known.clear()

    def _pass(self, seconds: float) -> None:
        self._now += seconds


def crowd(engine: TorchEngine, count: int = 8, **fields: Any) -> None:
    for number in range(count):
        engine.admit(str(number), make_request(seed=number, num_inference_steps=50, **fields))


def step(engine: TorchEngine, times: int) -> None:
    for _ in islice(iter(engine.step, None), times):
        pass


def run(engine: TorchEngine, requests: dict[str, Any]) -> dict[str, list[JobEvent]]:
    """Admit all, step until the engine is idle; the events by key."""
    events: dict[str, list[JobEvent]] = {key: [] for key in requests}
    for key, request in requests.items():
        engine.admit(key, request)
    for _ in range(1000):
        if not engine.is_busy():
            return events
        for key, event in engine.step():
            events[key].append(made(event))
    raise AssertionError("the engine did not come to an end")


def last(events: list[JobEvent]) -> Completed:
    event = made(events[-1])
    assert not isinstance(event, Failed), event.error
    assert isinstance(event, Completed)
    return event


def pixels(event: Completed, index: int = 0) -> Pixels:
    image = Image.open(io.BytesIO(event.images[index].png))
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def held(engine: TorchEngine, name: str = "v1/plain") -> LoadedModel:
    """A model that is in memory."""
    return engine._cache._held[engine._catalogue.find(name)].thing


def draw(engine: TorchEngine, **fields: Any) -> Pixels:
    """The pixels of one request drawn alone."""
    return pixels(last(run(engine, {"k": make_request(**fields)})["k"]))
