"""The engine keeps its promises: one last event per request, whatever goes wrong."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from drawn import Pixels, as_base64, draw, half_mask, held, last, make_request, photo, run
from PIL import Image

from runai.engine.engine import TorchEngine
from runai.errors import (
    InvalidField,
    InvalidImage,
    InvalidSetting,
    ModelBroken,
    ModelNotFound,
    RunAIError,
    TooManyPixels,
)
from runai.schema.events import Completed, Failed, Preview, Progress
from runai.schema.late import Late
from runai.schema.limits import Limits


@pytest.fixture
def fresh(models: Path) -> Iterator[TorchEngine]:
    """An engine of its own, with nothing loaded."""
    engine = TorchEngine(models, device="cpu", dtype="fp32", max_batch=8)
    yield engine
    engine.close()


def test_progress_counts_every_step_and_ends_at_the_total(engine: TorchEngine) -> None:
    events = run(engine, {"k": make_request(num_images=2, num_inference_steps=3)})["k"]
    said = [(e.step, e.total) for e in events if isinstance(e, Progress)]
    assert said == [(2, 6), (4, 6), (6, 6)]
    assert [type(e) for e in events[-2:]] == [Progress, Completed]
    assert all(e.id == "r" for e in events)


def test_the_answer_says_every_parameter_that_was_used(engine: TorchEngine) -> None:
    request = make_request(model="", prompt="a", sampler="LMS", guidance_scale=2.0, seed=None)
    done = last(run(engine, {"k": request})["k"])
    used = done.parameters
    assert (used.model, used.sampler, used.guidance_scale) == ("v1/plain", "lms", 2.0)
    assert (used.width, used.height, used.strength) == (64, 64, None)
    assert done.images[0].seed == used.seed
    again = make_request(prompt="a", sampler="lms", guidance_scale=2.0, seed=used.seed)
    assert last(run(engine, {"k": again})["k"]).images[0].png == done.images[0].png


def test_two_requests_without_a_seed_get_two_seeds(engine: TorchEngine) -> None:
    done = run(engine, {k: make_request(seed=None) for k in "ab"})
    assert last(done["a"]).parameters.seed != last(done["b"]).parameters.seed


@pytest.mark.parametrize(("width", "height"), [(64, 128), (72, 64), (136, 96)])
def test_a_picture_has_the_size_that_was_asked_for(
    engine: TorchEngine, width: int, height: int
) -> None:
    for task in ("txt2img", "img2img", "inpaint"):
        assert draw(engine, task=task, width=width, height=height).shape == (height, width, 3)


def test_without_a_size_a_picture_keeps_its_own_rounded_down(engine: TorchEngine) -> None:
    picture = as_base64(photo(77, 90))
    assert draw(engine, task="img2img", image=picture).shape == (88, 72, 3)


def test_outpainting_takes_its_mask_from_the_transparency(engine: TorchEngine) -> None:
    image = photo().convert("RGBA")
    image.putalpha(half_mask().point(lambda v: 255 - v))
    ours = draw(engine, task="outpaint", image=as_base64(image), mask_image=None)
    same = draw(engine, task="outpaint", image=as_base64(image))
    assert (ours == same).all()


def test_an_inpainting_model_draws_the_other_tasks_too(engine: TorchEngine) -> None:
    for task in ("txt2img", "img2img"):
        assert draw(engine, task=task, model="v1/painter-inpainting").std() > 5


def test_a_model_that_is_not_there_is_an_error_or_a_note(engine: TorchEngine) -> None:
    with pytest.raises(ModelNotFound):
        engine.admit("k", make_request(model="nope"))
    assert not engine.is_busy()
    request = make_request(model="nope", model_fallback=True, model_version="v2")
    done = last(run(engine, {"k": request})["k"])
    assert done.parameters.model == "v2/velocity"
    assert "nope" in done.notes[0]


def test_a_prompt_past_what_the_encoder_reads_at_once_still_counts(engine: TorchEngine) -> None:
    long = draw(engine, prompt="a " * 100 + "b")
    assert abs(long - draw(engine, prompt="a " * 100 + "c")).max() > 0


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"task": "img2img", "image": "aGVsbG8="}, InvalidImage, "image"),
        ({"task": "inpaint", "mask_image": "aGVsbG8="}, InvalidImage, "mask_image"),
        ({"task": "outpaint", "mask_image": None}, InvalidImage, "mask_image"),
        ({"task": "img2img", "strength": 0.0}, InvalidField, "strength"),
        ({"task": "img2img", "strength": 0.2}, InvalidField, "strength"),
        ({"task": "img2img", "image": as_base64(photo(200, 200))}, TooManyPixels, "image"),
        ({"width": 256, "height": 256}, TooManyPixels, "width"),
        ({"sampler": "ddim", "num_inference_steps": 1000}, InvalidField, "num_inference_steps"),
        ({"task": "img2img", "width": 16384}, TooManyPixels, "width"),
        ({"task": "inpaint", "height": 16384}, TooManyPixels, "width"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_the_next_request_is_served(
    models: Path, fields: dict[str, Any], error: type[RunAIError], field: str
) -> None:
    engine = TorchEngine(models, device="cpu", dtype="fp32", limits=Limits(max_pixels=150 * 150))
    with pytest.raises(error) as caught:
        engine.admit("k", make_request(**fields))
    assert caught.value.field == field
    assert not engine.is_busy()
    assert draw(engine).shape == (64, 64, 3)
    engine.close()


def test_numbers_that_are_no_picture_fail_only_their_own_request(
    models: Path, tmp_path: Path
) -> None:
    for name in ("plain", "sick"):
        shutil.copytree(models / "v1" / "plain", tmp_path / "v1" / name)
    engine = TorchEngine(tmp_path, device="cpu", dtype="fp32")
    engine.admit("sick", make_request(model="sick"))
    vae = held(engine, "v1/sick").vae
    with torch.no_grad():
        vae.decoder.conv_out.bias.fill_(float("nan"))
    events = run(
        engine, {"well": make_request(model="v1/plain"), "sick": make_request(model="sick")}
    )
    sick = events["sick"][-1]
    assert isinstance(sick, Failed) and sick.error.code == "not_finite"
    assert "--dtype fp32" in sick.error.hint
    assert isinstance(events["well"][-1], Completed)


class Hook:
    """Raises an error in a real network's call when it is given more rows than `most`."""

    def __init__(self, network: Any, error: Exception, most: int) -> None:
        self.largest = 0

        def check(_: Any, args: tuple[torch.Tensor, ...]) -> None:
            if len(args[0]) > most:
                raise error
            self.largest = max(self.largest, len(args[0]))

        self._handle = network.register_forward_pre_hook(check)

    def remove(self) -> None:
        self._handle.remove()


def unet_of(engine: TorchEngine, name: str) -> Any:
    draw(engine, model=name)
    return held(engine, name).unet


ALLOCATOR = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError(ALLOCATOR)])
def test_a_batch_that_is_too_large_for_memory_is_drawn_in_smaller_ones(
    fresh: TorchEngine, error: Exception
) -> None:
    hook = Hook(unet_of(fresh, "v1/plain"), error, most=4)
    events = run(fresh, {k: make_request() for k in "abcde"})
    assert all(isinstance(e[-1], Completed) for e in events.values())
    assert hook.largest == 4


def test_one_picture_that_is_too_large_for_memory_fails_alone(fresh: TorchEngine) -> None:
    hook = Hook(unet_of(fresh, "v1/plain"), torch.OutOfMemoryError(), most=0)
    events = run(fresh, {"big": make_request(), "other": make_request(model="v2/velocity")})
    failed = events["big"][-1]
    assert isinstance(failed, Failed) and failed.error.code == "out_of_memory"
    assert isinstance(events["other"][-1], Completed)
    hook.remove()
    assert draw(fresh).std() > 5


@pytest.mark.parametrize("error", [TypeError(), IndexError("index 1000"), RuntimeError("")])
def test_a_fault_of_a_network_fails_only_who_shares_its_call(
    fresh: TorchEngine, error: Exception
) -> None:
    Hook(unet_of(fresh, "v1/plain"), error, most=0)
    events = run(fresh, {"sick": make_request(), "well": make_request(model="v2/velocity")})
    failed = events["sick"][-1]
    assert isinstance(failed, Failed) and failed.error.code == "engine"
    assert isinstance(events["well"][-1], Completed)


def test_a_preview_that_cannot_be_made_spoils_no_picture(fresh: TorchEngine) -> None:
    draw(fresh)
    Hook(held(fresh).vae.encoder, RuntimeError("nan"), most=0)
    events = run(fresh, {"k": make_request(num_inference_steps=9, preview=True)})["k"]
    assert isinstance(events[-1], Completed)
    assert not any(isinstance(e, Preview) for e in events)


def test_a_dropped_request_says_nothing_more(engine: TorchEngine) -> None:
    for key in "ab":
        engine.admit(key, make_request())
    engine.step()
    engine.drop("a")
    engine.drop("unknown")
    rest = [key for _ in range(20) for key, _ in engine.step()]
    assert set(rest) == {"b"}
    assert not engine.is_busy()


def test_a_short_request_overtakes_a_long_one(engine: TorchEngine) -> None:
    engine.admit("long", make_request(num_inference_steps=50))
    engine.step()
    engine.admit("short", make_request(num_inference_steps=2))
    outcomes = [(key, type(event)) for _ in range(2 + 1) for key, event in engine.step()]
    assert ("short", Late) in outcomes
    assert engine.is_busy()
    engine.drop("long")


def test_groups_that_cannot_share_a_call_take_turns(engine: TorchEngine) -> None:
    engine.admit("small", make_request(num_inference_steps=10))
    engine.admit("wide", make_request(num_inference_steps=10, width=128))
    turns = [{key for key, _ in engine.step()} for _ in range(6)]
    assert turns == [{"small"}, {"wide"}] * 3
    engine.drop("small")
    engine.drop("wide")


def test_a_batch_has_a_limit_and_everyone_gets_a_turn(models: Path) -> None:
    engine = TorchEngine(models, device="cpu", dtype="fp32", max_batch=2)
    engine.admit("k", make_request(num_images=5, num_inference_steps=2))
    events = [event for _ in range(5 + 5) for _, event in engine.step()]
    assert [e.step for e in events if isinstance(e, Progress)] == [2, 4, 6, 8, 10]
    assert len(last(events).images) == 5
    engine.close()


def test_there_is_room_until_enough_samples_are_active(engine: TorchEngine) -> None:
    assert engine.has_room()
    for number in range(8):
        assert engine.has_room()
        engine.admit(str(number), make_request())
    assert not engine.has_room()
    for number in range(8):
        engine.drop(str(number))
    assert engine.has_room()


def test_a_request_for_many_pictures_leaves_room_for_others(engine: TorchEngine) -> None:
    engine.admit("many", make_request(num_images=16))
    assert engine.has_room()
    engine.drop("many")


def test_a_model_is_loaded_on_first_use_and_kept(fresh: TorchEngine) -> None:
    request = make_request(model="plain")
    assert fresh.model_of(request) == "v1/plain"
    assert not fresh.is_warm(request)
    draw(fresh, model="plain")
    draw(fresh, model="v2/velocity")
    assert fresh.is_warm(request)
    loaded = {m.name for m in fresh.models() if m.loaded}
    assert loaded == {"v1/plain", "v2/velocity"}
    assert [m.name for m in fresh.models() if m.default] == ["v1/plain", "v2/velocity"]


def test_a_model_can_be_loaded_before_anybody_asks(fresh: TorchEngine) -> None:
    fresh.preload("v2/velocity")
    fresh.preload("")
    assert all(fresh.is_warm(make_request(model=name)) for name in ("v2/velocity", ""))
    with pytest.raises(ModelNotFound):
        fresh.preload("none of this name")


def test_a_model_that_is_replaced_on_disk_by_another_format_is_loaded_anew(
    models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "v1" / "plain", tmp_path / "v1" / "m")
    engine = TorchEngine(tmp_path, device="cpu", dtype="fp32")
    draw(engine, model="m")
    shutil.rmtree(tmp_path / "v1" / "m")
    (tmp_path / "v1" / "m.safetensors").write_bytes(b"garbage")
    engine.models()  # looks at the disk, however short ago it did
    assert [row.name for row in engine.unusable()] == ["v1/m.safetensors"]
    with pytest.raises(ModelBroken):
        engine.admit("k", make_request(model="m"))
    engine.close()


def test_a_model_that_is_overwritten_in_place_is_loaded_anew(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "v1" / "m"
    shutil.copytree(models / "v1" / "plain", folder)
    engine = TorchEngine(tmp_path, device="cpu", dtype="fp32")
    before = draw(engine, model="m")
    shutil.rmtree(folder / "unet")
    shutil.copytree(models / "v2" / "velocity" / "unet", folder / "unet")
    os.utime(folder / "unet", ns=(1, 1))
    assert (draw(engine, model="m") != before).any()
    engine.close()


@pytest.mark.parametrize("device", ["cuda:99", "mps"])
def test_a_device_that_is_not_there_is_refused_at_the_start(models: Path, device: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        TorchEngine(models, device=device)
    assert caught.value.field == "device"


def test_previews_are_small_pictures_with_the_colours_of_the_latents(engine: TorchEngine) -> None:
    events = run(engine, {"k": make_request(num_inference_steps=9, preview=True)})["k"]
    previews = [e for e in events if isinstance(e, Preview)]
    assert [p.step for p in previews] == [4, 8]
    assert Image.open(io.BytesIO(previews[0].png)).size == (8, 8)
    silent = run(engine, {"k": make_request(num_inference_steps=9)})["k"]
    assert not any(isinstance(e, Preview) for e in silent)
    assert last(events).images[0].png == last(silent).images[0].png


def test_the_example_model_needs_no_filter(models: Path, tmp_path: Path) -> None:
    engine = TorchEngine(tmp_path, device="cpu", dtype="fp32", example_path=models)
    done = last(run(engine, {"k": make_request(model="", nsfw_filter=True)})["k"])
    assert not done.images[0].nsfw
    engine.close()


def difference(a: Pixels, b: Pixels) -> int:
    return int(abs(a - b).max())


def test_fp32_latents_make_bf16_weights_draw_nearly_the_same(models: Path) -> None:
    rough = TorchEngine(models, device="cpu", dtype="bf16")
    fine = TorchEngine(models, device="cpu", dtype="fp32")
    a, b = draw(rough, sampler="euler_a"), draw(fine, sampler="euler_a")
    assert abs(a - b).mean() < 6
    assert difference(a, b) > 0
    for engine in (rough, fine):
        engine.close()


def test_the_models_folder_may_be_empty(tmp_path: Path) -> None:
    engine = TorchEngine(tmp_path, device="cpu")
    assert engine.models() == []
    assert engine.is_warm(make_request(model=""))
    with pytest.raises(ModelNotFound):
        engine.admit("k", make_request(model=""))


def test_tiny_models_are_not_flat() -> None:
    """The tests above compare pictures: they must be able to differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = tiny.make_vae(tiny.VAE)
        with torch.no_grad():
            said = vae.decode(torch.randn(1, 4, 8, 8) / 0.18215).sample
    assert 0.2 < said.std() < 0.8
