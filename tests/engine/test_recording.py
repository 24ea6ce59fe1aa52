"""UNet calls that are recorded and played: the same pictures, and never one of another call.

There is no GPU here. What a CUDA graph is to one, a `Tape` is to a processor: the operations of a
call, done again in the same places in memory, with all that Python decided left as it was.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lora_files
import numpy as np
import pytest
import tiny
import torch
from drawn import Separate, draw, held, last, make_request, pixels, run, step
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from runai.engine.backends import Asked, choice, recording
from runai.engine.backends.cuda_graphs import CudaGraphs
from runai.engine.backends.recording import MOST, WARM, RecordedDenoiser, RecordedUnets, Recordings
from runai.engine.devices import Place
from runai.engine.engine import TorchEngine
from runai.engine.plan import Work
from runai.schema.events import Backend
from runai.schema.late import made

CPU = torch.device("cpu")
FIELDS: dict[str, Any] = {"prompt": "a b c", "num_inference_steps": WARM + 4}


class Tape(TorchFunctionMode):
    """A call's operations. Of tensors it knows the memory, not the name: as a GPU does."""

    def __init__(self) -> None:
        super().__init__()
        self._orders: list[tuple[Any, Any, Any, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        said = func(*args, **(kwargs or {}))
        self._orders.append((func, *tree_map(_memory_of, (args, kwargs or {}, said))))
        return said

    def play(self) -> None:
        for func, args, kwargs, said in self._orders:
            again = func(*args, **kwargs)
            for place, value in zip(_tensors(said), _tensors(again), strict=True):
                if place.data_ptr() != value.data_ptr():  # else it is a view, or done in place
                    place.copy_(value)


def _memory_of(thing: Any) -> Any:
    return thing.detach() if isinstance(thing, torch.Tensor) else thing


def _tensors(said: Any) -> list[torch.Tensor]:
    return [thing for thing in tree_leaves(said) if isinstance(thing, torch.Tensor)]


class Recorder:
    """Tapes, counted; each takes `size` bytes. `spoil`: what is done after one is made."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.made = self.bytes = 0
        self.size = 1
        self.spoil: Callable[[], None] = lambda: None

    def __call__(self, call: Callable[[], torch.Tensor]) -> Any:
        self.made += 1
        tape = Tape()
        with tape:
            said = call()
        self.spoil()
        self.bytes += self.size
        weakref.finalize(tape, self._let_go, self.size)
        return tape.play, said

    def _let_go(self, size: int) -> None:
        self.bytes -= size


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """What records for a processor."""
    one = Recorder()
    monkeypatch.setattr(choice, "RECORDERS", {"cpu": lambda device: one})
    return one


@pytest.fixture
def recorded(models: Path, recorder: Recorder) -> Iterator[TorchEngine]:
    engine = TorchEngine(models, device="cpu", dtype="fp32")
    yield engine
    engine.close()


# --- a network ---------------------------------------------------------------------------


class Network:
    """A tiny UNet, and how it is called in the engine."""

    def __init__(self, arch: str, recorder: Recorder, *, room: bool = True) -> None:
        torch.manual_seed(0)
        self.config = tiny.unet_config(**tiny.MODELS[arch].unet)
        self.unet = tiny.make_unet(self.config).eval().requires_grad_(False)
        self.recordings = Recordings(recorder)
        self.denoise = RecordedDenoiser(self, self.unet, self.recordings, lambda rows: room)
        self.rows: list[int] = []

    backend: Backend = "torch"
    is_settled = True

    def __call__(self, asked: Asked) -> torch.Tensor:
        self.rows.append(len(asked.latents))
        return self._said(asked)

    def whole(self, asked: Asked) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError

    def shallow(self, asked: Asked, deep: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _said(self, asked: Asked) -> torch.Tensor:
        given = asked.latents, asked.timesteps, asked.text
        said: torch.Tensor = self.unet(*given, **asked.told).sample
        return said

    def given(self, rows: int = 4, side: int = 8) -> Asked:
        """Anything: each time something else."""
        told = tree_map(lambda t: _another(t[:rows]), tiny._told(self.unet.config))
        latents = torch.randn(rows, self.config["in_channels"], side, side)
        text = torch.randn(rows, 77, self.config["cross_attention_dim"])
        return Asked(latents, torch.rand(rows) * 999, text, told)

    @torch.inference_mode()
    def is_right(self, asked: Asked) -> bool:
        return torch.equal(self.denoise(asked), self._said(asked))


def _another(tensor: torch.Tensor) -> torch.Tensor:
    """Of the same shape and type."""
    if tensor.is_floating_point():
        return torch.rand_like(tensor)
    return torch.randint_like(tensor, 350)


@pytest.mark.parametrize("arch", tiny.MODELS)
def test_a_unet_of_every_kind_says_the_same_when_it_is_played(arch: str) -> None:
    network = Network(arch, recorder := Recorder())
    for _ in range(WARM + 3):
        assert network.is_right(network.given())
    assert recorder.made == 1
    assert len(network.rows) == WARM + 1, "those that are made as ever, and the one recorded"


@torch.inference_mode()
def test_an_answer_stays_what_it_is_when_the_recording_is_played_again() -> None:
    network = Network("sd1", Recorder())
    said = [network.denoise(network.given()) for _ in range(WARM + 3)]
    before = [one.clone() for one in said]
    network.denoise(network.given())
    assert all(torch.equal(one, other) for one, other in zip(said, before, strict=True))


def test_calls_of_other_shapes_are_other_recordings() -> None:
    network = Network("sd1", recorder := Recorder())
    shapes = [(4, 8), (2, 8), (4, 16)]
    for _ in range(WARM + 2):
        assert all(network.is_right(network.given(*shape)) for shape in shapes)
    assert recorder.made == len(shapes)


def test_what_is_called_seldom_is_not_recorded() -> None:
    network = Network("sd1", recorder := Recorder())
    for side in range(8, 12):
        for _ in range(WARM - 1):
            network.is_right(network.given(side=side))
    assert recorder.made == 0


def test_of_many_recordings_the_longest_unused_goes() -> None:
    network = Network("sd1", recorder := Recorder())
    shapes = [(rows, side) for rows in range(1, 5) for side in range(4, 4 + MOST // 4)]
    for shape in [*shapes, (1, 64)]:
        for _ in range(WARM):
            network.is_right(network.given(*shape))
    assert network.recordings.recorded == MOST
    assert network.is_right(network.given(*shapes[1]))
    assert recorder.made == MOST + 1
    assert network.is_right(network.given(*shapes[0])), "which has gone"
    assert len(network.rows) == (WARM + 1) * (MOST + 1) + 1
    assert network.is_right(network.given(*shapes[0]))
    assert recorder.made == MOST + 2, "and is recorded anew"


def test_weights_that_have_moved_are_read_where_they_are() -> None:
    network = Network("sd1", recorder := Recorder())
    for _ in range(WARM + 1):
        network.is_right(network.given())
    for parameter in network.unet.parameters():
        parameter.data = parameter.data * 1.1
    for _ in range(WARM + 1):
        assert network.is_right(network.given())
    assert recorder.made == 2


# --- what cannot be recorded -------------------------------------------------------------


def test_without_room_nothing_is_recorded() -> None:
    network = Network("sd1", recorder := Recorder(), room=False)
    assert all(network.is_right(network.given()) for _ in range(WARM + 3))
    assert recorder.made == 0


def test_room_is_left_to_decode_what_is_drawn() -> None:
    work = Work(width=64, height=64, rows=2, element=4, vae_element=4)
    needed = replace(work, rows=6).unet_bytes + work.decode_bytes(tiled=False)
    network, spare = Network("sd1", Recorder()), [needed]
    unets = RecordedUnets(Recorder(), lambda: spare[0])
    denoiser: Any = unets.denoiser(network, network.unet, work)
    assert denoiser.has_room(6)
    spare[0] -= 1
    assert not denoiser.has_room(6)
    assert denoiser.has_room(4)


def failing(message: str) -> Callable[[], None]:
    def spoil() -> None:
        raise RuntimeError(message)

    return spoil


def test_what_there_was_no_room_for_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RETRY", 6)
    network = Network("sd1", recorder := Recorder(), room=False)
    for _ in range(5):
        network.is_right(network.given())
    network.denoise = replace(network.denoise, has_room=lambda rows: True)
    assert all(network.is_right(network.given()) for _ in range(3))
    assert recorder.made == 1
    assert len(network.rows) == 6 + 1


def test_after_a_recording_that_failed_there_are_no_new_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = Network("sd1", recorder := Recorder())
    for _ in range(WARM + 1):
        network.is_right(network.given(2))
    recorder.spoil = failing("operation not permitted when stream is capturing")
    for _ in range(WARM + 3):
        assert network.is_right(network.given())
        assert network.is_right(network.given(3))
    assert recorder.made == 2
    assert "not permitted" in caplog.text
    network.rows.clear()
    assert network.is_right(network.given(2))
    assert network.rows == [], "what was recorded before is played"


def test_what_memory_ran_out_for_is_not_recorded_but_others_are() -> None:
    network = Network("sd1", recorder := Recorder())
    recorder.spoil = failing("CUDA out of memory. Tried to allocate 2 GiB")
    for _ in range(WARM + 1):
        assert network.is_right(network.given())
    recorder.spoil = lambda: None
    for _ in range(WARM + 1):
        assert network.is_right(network.given())
        assert network.is_right(network.given(2))
    assert network.recordings.recorded == 1
    assert recorder.made == 2


def test_a_device_that_is_lost_meanwhile_is_not_passed_over() -> None:
    network = Network("sd1", recorder := Recorder())
    recorder.spoil = failing("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal"):
        for _ in range(WARM):
            network.is_right(network.given())


def test_a_recording_that_says_something_else_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = Network("sd1", recorder := Recorder())
    weight = network.unet.conv_out.weight
    before = weight.data.clone()
    recorder.spoil = lambda: weight.data.mul_(1.001)
    for _ in range(WARM):
        network.denoise(network.given())
    weight.data.copy_(before)
    for _ in range(WARM + 2):
        assert network.is_right(network.given())
    assert recorder.made == 1
    assert "something else" in caplog.text


@torch.inference_mode()
def test_of_what_is_no_number_nothing_is_concluded() -> None:
    network = Network("sd1", recorder := Recorder())
    for _ in range(WARM):
        network.denoise(replace(network.given(), latents=torch.full((4, 4, 8, 8), torch.nan)))
    assert recorder.made == 1
    assert network.recordings.recorded == 0
    for _ in range(WARM + 1):
        assert network.is_right(network.given(2))
    assert recorder.made == 2


# --- pictures ----------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["txt2img", "img2img", "inpaint", "outpaint"])
@pytest.mark.parametrize("model", ["v1/plain", "v1/painter-inpainting", "v2/velocity"])
def test_a_picture_is_the_same_bit_by_bit_whenever_it_is_drawn(
    engine: TorchEngine, recorded: TorchEngine, recorder: Recorder, model: str, task: str
) -> None:
    fields = {**FIELDS, "model": model, "task": task}
    if task != "txt2img":
        fields["strength"] = 1.0
    expected = draw(engine, **fields)
    assert all(np.array_equal(draw(recorded, **fields), expected) for _ in range(2))
    # where it begins with a picture, its first latents lie otherwise in memory than the later ones
    assert recorder.made == 1 if task == "txt2img" else recorder.made <= 2
    assert [one.backend for one in recorded.holdings().loaded] == ["cuda-graphs"]


def test_pictures_that_share_calls_are_those_that_share_them_unrecorded(
    models: Path, recorded: TorchEngine
) -> None:
    plain = TorchEngine(models, device="cpu", dtype="fp32", backend="torch")
    requests = {
        "guided": make_request(**FIELDS, guidance_scale=5),
        "unguided": make_request(prompt="d", num_inference_steps=12, guidance_scale=1),
        "another": make_request(prompt="e f", sampler="dpmpp_2m", seed=3, width=96),
    }
    for engine in (plain, recorded):
        engine._batches._max_batch = 8  # what is measured differs from run to run
    expected, drawn = run(plain, requests), run(recorded, requests)
    for key in requests:
        assert np.array_equal(pixels(last(drawn[key])), pixels(last(expected[key])))
    plain.close()


def test_what_leaves_out_or_adds_a_part_of_the_network_is_not_recorded(
    models: Path, engine: TorchEngine, recorded: TorchEngine, recorder: Recorder
) -> None:
    draw(engine)
    path = models / "lora" / "loud.safetensors"
    lora_files.write(path, lora_files.kohya(held(engine), 0))
    for one in (engine, recorded):
        one.models()  # looks at the disk
    others: dict[str, dict[str, Any]] = {
        "lora": {"loras": [{"name": "loud", "weight": 1.0}]},
        "reuse": {"reuse": 2},
        "merging": {"token_merging": 0.5},
    }
    exact = draw(engine, **FIELDS)
    for fields in others.values():
        expected = draw(engine, **FIELDS, **fields)
        assert np.array_equal(draw(recorded, **FIELDS, **fields), expected)
        assert not np.array_equal(expected, exact)
    assert recorder.made == 0
    for fields in others.values():
        requests = {"exact": make_request(**FIELDS), "other": make_request(**FIELDS, **fields)}
        done = run(recorded, requests)
        assert np.array_equal(pixels(last(done["exact"])), exact)
        expected = draw(engine, **FIELDS, **fields)
        assert np.array_equal(pixels(last(done["other"])), expected)
    assert recorder.made == 1
    path.unlink()


@pytest.mark.parametrize("plan", ["offload", "sequential"])
def test_where_weights_are_moved_about_nothing_is_recorded(
    recorded: TorchEngine, recorder: Recorder, engine: TorchEngine, plan: str
) -> None:
    expected = draw(engine, **FIELDS)
    draw(recorded, **FIELDS)
    recorded._cache._place = Separate(CPU, torch.float32)
    requests = {
        "early": make_request(**FIELDS),
        "moved": make_request(**FIELDS, memory_plan=plan),
    }
    drawn = run(recorded, requests)
    assert all(np.array_equal(pixels(last(events)), expected) for events in drawn.values())
    assert (recorder.made, recorded.holdings().backend_bytes) == (1, 0)
    assert np.array_equal(draw(recorded, **FIELDS), expected)
    assert recorder.made == 2


# --- time and memory ---------------------------------------------------------------------


def test_the_time_of_a_call_counts_from_when_it_is_played(recorded: TorchEngine) -> None:
    recorded.admit("k", make_request(**FIELDS, guidance_scale=1))
    step(recorded, WARM)
    (kinds,) = recorded._batches._known.values()
    assert [sizes._calls for sizes in kinds.values()] == [0]
    step(recorded, 3)
    assert [sizes._calls for sizes in kinds.values()] == [3]
    assert [time.rows for time in recorded.call_times()] == [1]


def test_recordings_go_before_a_batch_is_halved(recorded: TorchEngine, recorder: Recorder) -> None:
    draw(recorded, **FIELDS)
    assert recorder.bytes == 1
    left = [True]

    def check(_: Any, given: tuple[torch.Tensor, ...]) -> None:
        if left and len(given[0]) == 4:
            left.pop()
            raise torch.OutOfMemoryError

    held(recorded).unet.register_forward_pre_hook(check)
    events = run(recorded, {"k": make_request(**FIELDS, num_images=2)})
    assert not left
    assert not recorded._fitting._ceilings
    memory = last(events["k"]).memory
    assert memory is not None and memory.plan == "full"
    assert recorder.made == 2


def test_recordings_go_before_a_request_is_planned_otherwise(
    recorded: TorchEngine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(recorded, **FIELDS)
    get, tried = recorded._cache.get, list[int]()

    def short(*given: Any) -> Any:
        tried.append(recorder.bytes)
        if tried[-1]:
            raise torch.OutOfMemoryError
        return get(*given)

    monkeypatch.setattr(recorded._cache, "get", short)
    memory = last(run(recorded, {"k": make_request()})["k"]).memory
    assert tried == [1, 0]
    assert memory is not None and "ran out" not in memory.reason


def test_recordings_go_before_a_picture_is_decoded_in_tiles(
    recorded: TorchEngine, recorder: Recorder
) -> None:
    recorded.admit("k", make_request(**FIELDS))
    step(recorded, WARM + 1)

    def check(*_: Any) -> None:
        if recorder.bytes:
            raise torch.OutOfMemoryError

    held(recorded).vae.decoder.register_forward_pre_hook(check)
    events = [made(event) for _ in iter(recorded.is_busy, False) for _, event in recorded.step()]
    memory = last(events).memory
    assert memory is not None and memory.plan == "full"


def test_what_recordings_take_worsens_no_plan(models: Path, recorder: Recorder) -> None:
    engine = TorchEngine(models, device="cpu", dtype="fp32", max_memory=400 * 2**20)
    recorder.size = 350 * 2**20
    draw(engine, **FIELDS)
    assert recorder.bytes == recorder.size
    recorder.size = 1
    memory = last(run(engine, {"k": make_request(**FIELDS, model="v2/velocity")})["k"]).memory
    assert memory is not None and memory.plan == "full"
    assert recorder.bytes == 1, "the large one was let go of"
    assert set(engine.loaded_models()) == {"v1/plain", "v2/velocity"}, "and no model for it"
    engine.close()


def test_a_model_that_gave_up_is_drawn_by_torch(recorded: TorchEngine, recorder: Recorder) -> None:
    recorder.spoil = failing("capture failed")
    for _ in range(2):
        draw(recorded, **FIELDS)
    assert [one.backend for one in recorded.holdings().loaded] == ["torch"]


def test_recordings_go_with_their_model(recorded: TorchEngine) -> None:
    draw(recorded, **FIELDS)
    assert recorded.holdings().backend_bytes == 1
    recorded._cache.free(())
    gc.collect()
    assert recorded._backends.recorded_bytes == 0


def test_memory_that_is_kept_for_recordings_is_not_free(
    recorded: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Place, "free_bytes", lambda place: 10**9)
    before = recorded._cache.spare_bytes()
    draw(recorded, **FIELDS)
    assert recorded._cache.spare_bytes() == before - recorded._backends.recorded_bytes == 10**9 - 1


def test_torch_that_is_asked_for_is_not_recorded(models: Path, recorder: Recorder) -> None:
    engine = TorchEngine(models, device="cpu", dtype="fp32", backend="torch")
    draw(engine, **FIELDS)
    assert recorder.made == 0
    engine.close()


# --- CUDA --------------------------------------------------------------------------------


class Cuda:
    """What torch.cuda is to `CudaGraphs`, as far as it can be without a GPU. `log`: what was asked
    of it. `in_force`: streams.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[Any] = []
        self.in_force: list[str] = []
        self.pools = self.reserved = 0
        self.fails: Exception | None = None

        class Graph:
            def replay(self) -> None: ...

        there = {
            "CUDAGraph": Graph,
            "graph_pool_handle": self._pool,
            "Stream": lambda device: f"the side stream of {device}",
            "current_stream": lambda device: f"the stream of {device}",
            "stream": self._in_force,
            "graph": self._capturing,
            "memory_reserved": lambda device: self.reserved,
        }
        for name, stands_in in there.items():
            monkeypatch.setattr(torch.cuda, name, stands_in)

    def _pool(self) -> int:
        self.pools += 1
        return self.pools

    @contextmanager
    def _in_force(self, stream: str) -> Iterator[None]:
        before = [*self.in_force]
        self.in_force.append(stream)
        try:
            yield
        finally:
            self.in_force = before

    @contextmanager
    def _capturing(self, graph: Any, **how: Any) -> Iterator[None]:
        self.log.append(how)
        assert self.in_force == [f"the stream of {how['stream'].split()[-1]}"]
        self.in_force.append(how["stream"])  # and there it stays where it fails
        yield
        if self.fails is not None:
            raise self.fails
        self.in_force.pop()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def growing(cuda: Cuda) -> torch.Tensor:
    """A call for which memory is reserved."""
    cuda.reserved += 7
    return torch.ones(1)


def test_cuda_is_not_asked_for_anything_before_the_first_recording(cuda: Cuda) -> None:
    assert CudaGraphs(torch.device("cuda")).bytes == 0
    assert (cuda.pools, cuda.log) == (0, [])


def test_a_cuda_graph_is_captured_on_a_stream_of_its_own(cuda: Cuda) -> None:
    record = CudaGraphs(torch.device("cuda:1"))
    play, said = record(lambda: growing(cuda))
    assert torch.equal(said, torch.ones(1))
    assert play() is None
    side = "the side stream of cuda:1"
    how = {"pool": 1, "stream": side, "capture_error_mode": "thread_local"}
    assert cuda.log == [how]
    assert record.bytes == 7


def test_cuda_graphs_share_a_pool_while_there_are_any(cuda: Cuda) -> None:
    record = CudaGraphs(torch.device("cuda"))
    made = [record(lambda: growing(cuda)) for _ in range(3)]
    assert [how["pool"] for how in cuda.log] == [1, 1, 1]
    del made[0]
    assert record.bytes == 21, "the memory is the pool's, which is still there"
    made.clear()
    assert record.bytes == 0
    record(lambda: growing(cuda))
    assert cuda.log[-1]["pool"] == 2


@pytest.mark.parametrize("fault", [RuntimeError("capture failed"), AttributeError("capture")])
def test_after_a_cuda_graph_that_failed_no_other_is_tried(cuda: Cuda, fault: Exception) -> None:
    record, cuda.fails = CudaGraphs(torch.device("cuda")), fault
    with pytest.raises(type(fault), match="capture"):
        record(lambda: growing(cuda))
    assert cuda.in_force == [], "the side stream is left in force by nothing"
    cuda.log.clear()
    with pytest.raises(RuntimeError, match="has failed before"):
        record(lambda: growing(cuda))
    assert cuda.log == []


def test_after_one_that_memory_ran_out_for_others_are_tried(cuda: Cuda) -> None:
    record, cuda.fails = CudaGraphs(torch.device("cuda")), torch.OutOfMemoryError()
    with pytest.raises(torch.OutOfMemoryError):
        record(lambda: growing(cuda))
    cuda.fails = None
    record(lambda: growing(cuda))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: no CUDA graph is made here")
def test_a_picture_by_cuda_graphs_is_torchs_bit_by_bit(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = []
    for backend in ("torch", "auto"):
        engine = TorchEngine(models, device="cuda", dtype="fp16", backend=backend)
        drawn += [draw(engine, **FIELDS) for _ in range(2)]
        held_bytes = engine.holdings().backend_bytes
        engine.close()
    assert all(np.array_equal(one, drawn[0]) for one in drawn)
    assert held_bytes > 0, caplog.text
