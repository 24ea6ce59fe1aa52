"""An engine that draws nothing with a model: it does what the test says, step by step.

`ScriptedEngine` keeps every promise of `runai.jobs.engine.Engine` and none of its costs: no
torch, no files, no time, no chance. Its pictures are real PNGs of the size that was asked
for. A test steers it in these ways:

- `gate`: `engine.gate.close()` makes the worker wait before its next step,
  `wait_until_reached()` tells when it is there, `let_pass(n)` gives it n steps, `open()` all;
  `loading_gate` does the same for the loading of a model.
- `late`: its last answers are left to be made on another thread; there `finishing_gate` stands.
- `faults`: what goes wrong with which request (by its id), and when.
- `breaks`: what a method raises, by its name and in turn, before it works (again).
- `models_on_disk`, and `useless` files with the reasons why.
- `capacity` and `max_loaded`: how many requests, and how many models, fit.
- `rests`: what `rest` answers, in turn, once models are loaded; with the last one they go.
- `SECONDS`: what it says that its work took, by stage.
- `log`: what the engine was asked to do, in order, to assert on afterwards.

It does not check that the pictures it gets can be read, and knows no LoRA and no samplers.
"""

from __future__ import annotations

import io
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from runai.errors import ModelNotFound, RunAIError
from runai.schema.events import (
    CallTime,
    Completed,
    ErrorBody,
    Failed,
    Holdings,
    JobEvent,
    Loaded,
    Memory,
    ModelInfo,
    Parameters,
    Picture,
    Preview,
    Progress,
    Unusable,
)
from runai.schema.late import Late
from runai.schema.requests import GenerationRequest, TextToImage, Upscale
from runai.schema.stages import Spent, Stage

PATIENCE_S = 20.0
DEFAULT_STEPS = 20
DEFAULT_SIDE = 64
# what it says that its work took
SECONDS: Mapping[Stage, float] = {
    "load": 2.0,
    "encode": 0.25,
    "step": 0.5,
    "decode": 0.125,
    "png": 0.0625,
}


class Gate:
    """Where the worker waits for the test, and the test for the worker. Open at first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards the three below
        self._open = True
        self._passes = 0
        self._waiting = False

    def close(self) -> None:
        with self._changed:
            self._open = False

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def let_pass(self, times: int = 1) -> None:
        """Let the worker through so many times."""
        with self._changed:
            self._passes += times
            self._changed.notify_all()

    def wait_until_reached(self) -> None:
        """Until the worker stands before the closed gate with no pass left."""
        with self._changed:
            self._must(lambda: self._waiting and not self._passes, "The gate is not reached.")

    def enter(self) -> None:
        """For the engine: wait here while the gate is closed."""
        with self._changed:
            self._waiting = True
            self._changed.notify_all()
            self._must(lambda: self._open or self._passes > 0, "The gate was never opened.")
            self._waiting = False
            self._passes = max(0, self._passes - 1)

    def _must(self, true: Callable[[], bool], otherwise: str) -> None:
        if not self._changed.wait_for(true, PATIENCE_S):
            raise TimeoutError(otherwise)


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request: at its admission, or in the step after `after_steps`.

    `raised`: the step itself raises, so that nobody can tell whose fault it was; otherwise
    the request gets a `failed` and the others go on.
    """

    error: BaseException
    after_steps: int | None = None
    raised: bool = False


def plain_picture(request: GenerationRequest, width: int, height: int, seed: int) -> bytes:
    """A PNG of one colour, made from the prompt and the seed."""
    mixed = zlib.crc32(f"{request.prompt}|{seed}".encode("utf-8", "replace"))
    out = io.BytesIO()
    colour = (mixed & 255, mixed >> 8 & 255, mixed >> 16 & 255)
    Image.new("RGB", (width, height), colour).save(out, "PNG", compress_level=1)
    return out.getvalue()


@dataclass
class _Drawing:
    """A request in the engine. `done` and `total` count the steps of one picture."""

    request: GenerationRequest
    model: str
    width: int
    height: int
    seed: int
    total: int
    notes: list[str]
    done: int = 0


@dataclass
class ScriptedEngine:
    """See the module. `models`: the catalogue, the first being the default."""

    models_on_disk: Sequence[str] = ("shapes", "other")
    useless: Mapping[str, str] = field(default_factory=dict)
    capacity: int = 4
    max_loaded: int = 1
    rests: list[float | None] = field(default_factory=list)
    faults: Mapping[str, Fault] = field(default_factory=dict)
    breaks: Mapping[str, list[BaseException]] = field(default_factory=dict)
    draw: Callable[[GenerationRequest, int, int, int], bytes] = plain_picture
    gate: Gate = field(default_factory=Gate)
    loading_gate: Gate = field(default_factory=Gate)
    late: bool = False
    finishing_gate: Gate = field(default_factory=Gate)
    log: list[tuple[str, str]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    closed: bool = False
    _drawings: dict[str, _Drawing] = field(default_factory=dict)
    _loaded: list[str] = field(default_factory=list)
    _spent: list[Spent] = field(default_factory=list)

    def is_warm(self, request: GenerationRequest) -> bool:
        self._break("is_warm")
        return self._model_of(request) in self._loaded

    def has_room(self) -> bool:
        self._break("has_room")
        return len(self._drawings) < self.capacity

    def is_busy(self) -> bool:
        self._break("is_busy")
        return bool(self._drawings)

    def model_of(self, request: GenerationRequest) -> str:
        self._break("model_of")
        return self._model_of(request)

    def _model_of(self, request: GenerationRequest) -> str:
        if not request.model or (request.model_fallback and not self._has(request.model)):
            return self.models_on_disk[0]
        if not self._has(request.model):
            raise ModelNotFound(f"There is no model {request.model!r}.", field="model")
        return request.model

    def preload(self, model: str) -> None:
        self._break("preload")
        self._load(self._model_of(TextToImage(id="preload", model=model)))

    def admit(self, key: str, request: GenerationRequest, owner: int = 0) -> None:
        self._note("admit", request.id)
        self._break("admit")
        model = self._model_of(request)
        self._load(model, key)
        fault = self.faults.get(request.id)
        if fault is not None and fault.after_steps is None:
            raise fault.error
        self._drawings[key] = self._begin(request, model)
        self._spend("encode", key)

    def step(self) -> Sequence[tuple[str, JobEvent | Late]]:
        if not self._drawings:
            return []
        self.gate.enter()
        self._break("step")
        self._note("step", ",".join(d.request.id for d in self._drawings.values()))
        for drawing in self._drawings.values():
            self._raise_if_scripted(drawing)
        self._spend("step", *self._drawings)
        return [
            (key, event)
            for key, drawing in list(self._drawings.items())
            for event in self._advance(key, drawing)
        ]

    def rest(self) -> float | None:
        self._break("rest")
        if not (self._loaded and self.rests):
            return None
        wait = self.rests.pop(0)
        self._note("rest", "")
        if not self.rests:
            self._loaded = []
        return wait

    def holdings(self) -> Holdings:
        self._break("holdings")
        return Holdings(loaded=[Loaded(name=n, kind="model", bytes=0) for n in self._loaded])

    def newest_memory(self) -> Memory | None:
        self._break("newest_memory")
        return None

    def call_times(self) -> Sequence[CallTime]:
        self._break("call_times")
        return []

    def take_timings(self) -> Sequence[Spent]:
        spent, self._spent = self._spent, []
        return spent

    def drop(self, key: str) -> None:
        self._break("drop")
        drawing = self._drawings.pop(key, None)
        if drawing is not None:
            self._note("drop", drawing.request.id)

    def loaded_models(self) -> list[str]:
        self._break("loaded_models")
        return list(self._loaded)

    def models(self) -> list[ModelInfo]:
        self._break("models")
        loaded = list(self._loaded)
        return [
            ModelInfo(
                name=name,
                version="v1",
                format="diffusers",
                loaded=name in loaded,
                default=name == self.models_on_disk[0],
            )
            for name in self.models_on_disk
        ]

    def unusable(self) -> list[Unusable]:
        self._break("unusable")
        return [Unusable(name=name, reason=why) for name, why in self.useless.items()]

    def close(self) -> None:
        self._note("close", "")
        self._break("close")
        self._drawings.clear()
        self.closed = True

    def requests(self, what: str) -> list[str]:
        """The ids of the requests that `what` ("admit", "load", "step", ...) was done to."""
        return [of for done, of in list(self.log) if done == what]

    def _break(self, method: str) -> None:
        if errors := self.breaks.get(method):
            raise errors.pop(0)

    def _has(self, model: str) -> bool:
        return model in self.models_on_disk

    def _note(self, what: str, of: str) -> None:
        self.log.append((what, of))
        self.threads.add(threading.current_thread().name)

    def _spend(self, stage: Stage, *keys: str) -> None:
        self._spent.append(Spent(stage, SECONDS[stage], keys))

    def _load(self, model: str, *keys: str) -> None:
        if model not in self._loaded:
            self.loading_gate.enter()
            self._note("load", model)
            self._spend("load", *keys)
            self._loaded = [*self._loaded, model][-self.max_loaded :]

    def _begin(self, request: GenerationRequest, model: str) -> _Drawing:
        width, height = _size(request)
        notes = []
        if request.model and model != request.model:
            notes.append(f"There is no model {request.model!r}: {model!r} was used.")
        seed = request.seed if request.seed is not None else zlib.crc32(request.id.encode())
        return _Drawing(request, model, width, height, seed, _steps(request), notes)

    def _raise_if_scripted(self, drawing: _Drawing) -> None:
        fault = self.faults.get(drawing.request.id)
        if fault is not None and fault.raised and drawing.done == fault.after_steps:
            raise fault.error

    def _advance(self, key: str, drawing: _Drawing) -> list[JobEvent | Late]:
        fault = self.faults.get(drawing.request.id)
        if fault is not None and drawing.done == fault.after_steps:
            del self._drawings[key]
            return [_failed(drawing.request.id, fault.error)]
        drawing.done += 1
        events: list[JobEvent | Late] = [_progress(drawing)]
        if drawing.request.preview:
            events += self._previews(drawing)
        if drawing.done == drawing.total:
            del self._drawings[key]
            for _ in range(drawing.request.num_images):
                self._spend("decode", key)
            events.append(self._last(key, drawing))
        return events

    def _last(self, key: str, drawing: _Drawing) -> JobEvent | Late:
        if self.late:
            return Late(partial(self._finish, drawing))
        for _ in range(drawing.request.num_images):
            self._spend("png", key)
        return self._completed(drawing)

    def _finish(self, drawing: _Drawing) -> Completed:
        self.finishing_gate.enter()
        self._break("finish")
        self._note("finish", drawing.request.id)
        return self._completed(drawing)

    def _previews(self, drawing: _Drawing) -> list[Preview]:
        request, width, height = drawing.request, drawing.width // 8, drawing.height // 8
        return [
            Preview(
                id=request.id,
                index=index,
                step=drawing.done,
                png=self.draw(request, width, height, drawing.seed + index),
            )
            for index in range(request.num_images)
        ]

    def _completed(self, drawing: _Drawing) -> Completed:
        request, width, height = drawing.request, drawing.width, drawing.height
        images = [
            Picture(png=self.draw(request, width, height, seed), seed=seed)
            for seed in range(drawing.seed, drawing.seed + request.num_images)
        ]
        parameters = _parameters(drawing)
        return Completed(id=request.id, images=images, parameters=parameters, notes=drawing.notes)


def _size(request: GenerationRequest) -> tuple[int, int]:
    if request.width and request.height:
        return request.width, request.height
    if isinstance(request, TextToImage):
        return request.width or DEFAULT_SIDE, request.height or DEFAULT_SIDE
    with Image.open(io.BytesIO(request.image)) as image:
        if isinstance(request, Upscale):
            return image.width * 4, image.height * 4
        return (request.width or image.width // 8 * 8, request.height or image.height // 8 * 8)


def _steps(request: GenerationRequest) -> int:
    """Of one picture; img2img and the like skip the first part, as diffusers does."""
    strength = getattr(request, "strength", 1.0)
    return max(1, int((request.num_inference_steps or DEFAULT_STEPS) * strength))


def _progress(drawing: _Drawing) -> Progress:
    images = drawing.request.num_images
    left = (drawing.total - drawing.done) * images
    return Progress(
        id=drawing.request.id,
        step=drawing.done * images,
        total=drawing.total * images,
        seconds_left=float(left),
    )


def _failed(request_id: str, error: BaseException) -> Failed:
    ours = error if isinstance(error, RunAIError) else RunAIError(str(error))
    return Failed(id=request_id, error=ErrorBody.of(ours))


def _parameters(drawing: _Drawing) -> Parameters:
    request = drawing.request
    return Parameters(
        task=request.task,
        model=drawing.model,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        prompt_dialect=request.prompt_dialect or "plain",
        num_inference_steps=request.num_inference_steps or DEFAULT_STEPS,
        guidance_scale=7.5 if request.guidance_scale is None else request.guidance_scale,
        sampler=request.sampler or "euler",
        eta=request.eta,
        seed=drawing.seed,
        num_images=request.num_images,
        width=drawing.width,
        height=drawing.height,
        strength=getattr(request, "strength", None),
    )
