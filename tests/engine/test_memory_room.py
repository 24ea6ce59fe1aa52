"""What there is room for while several draw: whose weights stay, and how many share a call."""

from __future__ import annotations

import gc
import os
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ldm
import lora_files
import pytest
import tiny
import torch
from drawn import Calls, as_base64, draw, held, last, make_request, photo, pixels, run
from safetensors.torch import save_file

from runai.engine.devices import Place
from runai.engine.engine import TorchEngine
from runai.engine.faults import device_errors
from runai.engine.plan import Work
from runai.errors import ModelBroken, OutOfMemory
from runai.schema.events import Completed
from runai.schema.late import made

# a single file's VAE is read as full-size ones are: with norms over 32 groups
WIDE_VAE = {**tiny.VAE, "block_out_channels": [32] * 4, "norm_num_groups": 32}


@pytest.fixture
def base(models: Path, tmp_path: Path) -> Path:
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        weights = ldm.vae_weights(tiny.make_vae(WIDE_VAE))
    named = {k.removeprefix("first_stage_model."): v.contiguous() for k, v in weights.items()}
    (tmp_path / "vae").mkdir()
    save_file(named, tmp_path / "vae" / "soft.safetensors")
    return tmp_path


@pytest.fixture
def engine(base: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(base, device="cpu", dtype="fp32", max_batch=8)
    yield engine
    engine.close()


def finish(engine: TorchEngine) -> dict[str, Any]:
    events: dict[str, Any] = {}
    while engine.is_busy():
        events |= {key: made(event) for key, event in engine.step()}
    return events


# --- batches -----------------------------------------------------------------------------


def has_room_for(engine: TorchEngine, samples: int) -> None:
    """From now on there is room for so many guided samples in a call, and not for one more."""
    held(engine)
    call = Work(64, 64, rows=2 * samples, element=4, vae_element=4, unet_width=8, vae_width=8)
    left = call.unet_bytes
    engine._cache._free_bytes = lambda: left


def test_no_more_samples_share_a_call_than_memory_has_room_for(engine: TorchEngine) -> None:
    draw(engine)
    engine.admit("a", make_request(num_images=4))
    engine.admit("b", make_request(num_images=4, seed=90))
    calls = Calls(held(engine).unet)
    has_room_for(engine, 3)
    events = finish(engine)
    assert max(calls.rows) == 6
    assert all(isinstance(event, Completed) for event in events.values())


def test_one_sample_is_drawn_however_little_is_left(engine: TorchEngine) -> None:
    draw(engine)
    engine.admit("a", make_request(num_images=2))
    calls = Calls(held(engine).unet)
    has_room_for(engine, 0)
    assert isinstance(finish(engine)["a"], Completed)
    assert set(calls.rows) == {2}


def test_where_running_out_of_memory_kills_nobody_the_estimate_limits_no_batch(
    engine: TorchEngine,
) -> None:
    draw(engine)
    engine.admit("a", make_request(num_images=4))
    drawing = engine._drawings["a"]
    drawing.plan = replace(drawing.plan, room=replace(drawing.plan.room, separate=True))
    calls = Calls(held(engine).unet)
    has_room_for(engine, 1)
    finish(engine)
    assert max(calls.rows) == 8


class Narrow:
    """A UNet that runs out of memory at more than 4 rows, as long as it is told so."""

    def __init__(self, unet: Any) -> None:
        def check(_: Any, args: tuple[torch.Tensor, ...]) -> None:
            if len(args[0]) > 4:
                raise torch.OutOfMemoryError

        unet.register_forward_pre_hook(check)


def test_what_a_model_had_no_room_for_is_forgotten_with_it(engine: TorchEngine) -> None:
    draw(engine)
    Narrow(held(engine).unet)
    unet = weakref.ref(held(engine).unet)
    run(engine, {"k": make_request(num_images=4)})
    assert len(engine._fitting._ceilings) == 1
    engine._cache.free(())
    assert unet() is None
    assert len(engine._fitting._ceilings) == 0
    draw(engine)
    calls = Calls(held(engine).unet)
    run(engine, {"k": make_request(num_images=4)})
    assert max(calls.rows) == 8


# --- attempts that failed ----------------------------------------------------------------


def test_what_ran_out_of_memory_lets_go_of_what_it_had_computed() -> None:
    left: list[weakref.ref[torch.Tensor]] = []

    def compute() -> None:
        activations = torch.zeros(3)
        left.append(weakref.ref(activations))
        raise torch.OutOfMemoryError

    with pytest.raises(OutOfMemory) as caught, device_errors():
        compute()
    assert caught.value.__cause__ is not None
    assert left[0]() is None


def test_nothing_of_a_failed_attempt_is_held_during_the_next(engine: TorchEngine) -> None:
    draw(engine)
    attempts: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def encode(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        alive.extend(attempt() is not None for attempt in attempts)
        attempts.append(weakref.ref(args[0]))
        if len(attempts) == 1:
            raise OutOfMemory("There is not enough memory.")

    gc.disable()
    held(engine).vae.encoder.register_forward_pre_hook(encode)
    events = run(engine, {"k": make_request(task="img2img", image=as_base64(photo()))})
    gc.enable()
    assert last(events["k"]).memory
    assert alive == [False]


# --- files that are replaced, and VAEs that are shared -----------------------------------


def spoil(base: Path) -> None:
    for path in (base / "v1" / "plain" / "unet").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:5000])
    os.utime(base / "v1" / "plain" / "unet", ns=(1, 1))


def test_who_draws_with_a_model_whose_file_is_being_replaced_is_not_disturbed(
    engine: TorchEngine, base: Path
) -> None:
    expected = draw(engine)
    engine.admit("a", make_request())
    engine.step()
    spoil(base)
    request = make_request()
    assert not engine.is_warm(request)
    with pytest.raises(ModelBroken):
        engine.admit("b", request)
    done = finish(engine)["a"]
    assert isinstance(done, Completed)
    assert (pixels(done) == expected).all()


class Separate(Place):
    """A processor that is taken for a device with memory of its own."""

    has_own_memory = True


def test_a_vae_that_is_used_again_is_the_same_one(engine: TorchEngine) -> None:
    plain, soft = draw(engine), draw(engine, vae="soft")
    assert (plain != soft).any()
    for key in "ab":
        engine.admit(key, make_request(vae="soft", preview=True, num_inference_steps=8))
    models = {drawing.model for drawing in engine._drawings.values()}
    assert len(models) == 1
    finish(engine)
    assert len(engine._pictures._previewer._maps) == 1


def test_by_offload_nothing_moves_for_a_vae_that_is_used_again(engine: TorchEngine) -> None:
    engine._cache._place = Separate(torch.device("cpu"), torch.float32)
    draw(engine, vae="soft", memory_plan="offload")
    [entry] = [e for e in engine._cache._held if e.kind == "model"]
    before = engine._cache._held[entry].arrangement
    draw(engine, vae="soft", memory_plan="offload")
    assert engine._cache._held[entry].arrangement is before


# --- idling ------------------------------------------------------------------------------


def test_what_idles_is_let_go_of_while_others_draw(base: Path) -> None:
    engine = TorchEngine(base, device="cpu", dtype="fp32", idle_unload_s=60.0)
    now = 0.0
    engine._cache._clock = lambda: now
    draw(engine, model="v2/velocity")
    engine.admit("k", make_request())
    now = 59.0
    engine.step()
    assert engine.loaded_models() == ["v2/velocity", "v1/plain"]
    now = 61.0
    engine.step()
    assert engine.is_busy()
    assert engine.loaded_models() == ["v1/plain"]
    engine.close()


# --- what the cache does not hold --------------------------------------------------------


def test_room_that_is_made_leaves_room_to_draw(engine: TorchEngine) -> None:
    draw(engine)
    plan = engine._fitting.newest
    assert plan is not None
    free = plan.needed_bytes - plan.weights.total + 1000
    engine._cache._free_bytes = lambda: free
    engine._fitting.make_room(1000)
    with pytest.raises(OutOfMemory):
        engine._fitting.make_room(1001)


def test_loras_are_within_the_maximum_and_are_told(base: Path) -> None:
    engine = TorchEngine(base, device="cpu", dtype="fp32")
    draw(engine)
    assert engine.holdings().lora_bytes == 0
    file = base / "lora" / "bold.safetensors"
    lora_files.write(file, lora_files.kohya(held(engine), 1))
    spare, beside = engine._cache.spare_bytes(), engine.holdings().prompt_cache_bytes
    engine._cache._free_bytes = lambda: spare
    engine._cache._max_bytes = most = 200_000_000
    draw(engine, loras=[{"name": "bold"}])
    holdings = engine.holdings()
    assert holdings.lora_bytes == engine._shelf.byte_size > 0
    assert holdings.prompt_cache_bytes > beside
    taken = holdings.loaded_bytes + holdings.lora_bytes + holdings.prompt_cache_bytes
    assert engine._cache.spare_bytes() == most - taken
    engine.close()
