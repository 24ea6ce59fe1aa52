"""What a request gets from its model and from what lies beside it, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ldm
import lora_files
import pytest
import tiny
import torch
from drawn import as_base64, draw, held, last, make_request, photo, pixels, run
from PIL.ImageFile import ImageFile
from safetensors.torch import save_file

from runai.engine.engine import TorchEngine
from runai.errors import (
    DependencyMissing,
    InvalidField,
    InvalidImage,
    ModelBroken,
    ModelNotFound,
    ModelUnsupported,
    RunAIError,
    TooManyPixels,
)
from runai.schema.events import Completed
from runai.schema.limits import Limits

KINDS = {
    "sd1": "v1",
    "sd1-edit": "v1",
    "sd1-lcm": "v1",
    "sd2-depth": "v2",
    "sdxl-refiner": "xl",
    "upscale-x4": "v2",
}
WIDE_VAE = {**tiny.VAE, "block_out_channels": [32] * 4, "norm_num_groups": 32}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with models of several kinds, and a VAE in a file of its own."""
    base = tmp_path_factory.mktemp("shop")
    for seed, (arch, version) in enumerate(KINDS.items()):
        tiny.write_model(base / version / arch, arch, seed=seed)
    (base / "vae").mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(77)
        weights = ldm.vae_weights(tiny.make_vae(WIDE_VAE))
    named = {k.removeprefix("first_stage_model."): v.contiguous() for k, v in weights.items()}
    save_file(named, base / "vae" / "other.safetensors")
    return base


@pytest.fixture(scope="module")
def keeper(shop: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(shop, device="cpu", dtype="fp32")
    draw(engine, model="v1/sd1")
    model = held(engine, "v1/sd1")
    for seed, name in enumerate(("bold", "faint")):
        lora_files.write(shop / "lora" / f"{name}.safetensors", lora_files.kohya(model, seed))
    engine.models()  # looks at the disk
    yield engine
    engine.close()


def done(engine: TorchEngine, **fields: Any) -> Completed:
    return last(run(engine, {"k": make_request(**{"model": "v1/sd1", **fields})})["k"])


# --- tasks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "task", "offered"),
    [
        ("v1/sd1", "upscale", "txt2img"),
        ("v1/sd1-edit", "txt2img", "img2img"),
        ("v1/sd1-edit", "inpaint", "img2img"),
        ("v2/sd2-depth", "txt2img", "img2img"),
        ("xl/sdxl-refiner", "txt2img", "inpaint"),
        ("v2/upscale-x4", "img2img", "upscale"),
    ],
)
def test_a_task_that_a_model_cannot_do_is_refused_before_it_is_loaded(
    shop: Path, model: str, task: str, offered: str
) -> None:
    engine = TorchEngine(shop, device="cpu", dtype="fp32")
    with pytest.raises(ModelUnsupported) as caught:
        engine.admit("k", make_request(model=model, task=task))
    assert caught.value.field == "task"
    assert model in caught.value.message and offered in caught.value.hint
    assert engine.loaded_models() == []
    engine.close()


REFUSED: dict[str, tuple[dict[str, Any], type[RunAIError], str]] = {
    "a LoRA that is not there": ({"loras": [{"name": "nope"}]}, ModelNotFound, "loras"),
    "one in the prompt": ({"prompt": "<lora:nope>"}, ModelNotFound, "loras"),
    "a LoRA for another arch": ({"loras": [{"name": "wide"}]}, ModelUnsupported, "loras"),
    "a LoRA cut short": ({"prompt": "a <lora:short>"}, ModelBroken, "loras"),
    "a LoRA of an unknown kind": ({"loras": [{"name": "odd"}]}, ModelUnsupported, "loras"),
    "a tag that is not understood": ({"prompt": "<lora:bold:x>"}, InvalidField, "prompt"),
    "syntax that is not offered": ({"prompt": "(a) AND b"}, InvalidField, "prompt"),
    "the same of the negative one": (
        {"prompt": "(a)", "negative_prompt": "b AND c"},
        InvalidField,
        "negative_prompt",
    ),
    "a VAE that is not there": ({"vae": "nope"}, ModelNotFound, "vae"),
    "too small a picture for a watermark": (
        {"watermark": True, "width": 64, "height": 64},
        InvalidField,
        "watermark",
    ),
    "the same by the picture given": (
        {"watermark": True, "task": "img2img"},
        InvalidField,
        "watermark",
    ),
    "a strength that leaves nothing": (
        {"task": "img2img", "strength": 0.1},
        InvalidField,
        "strength",
    ),
    "no picture": ({"task": "img2img", "image": "aGVsbG8="}, InvalidImage, "image"),
    "no mask": ({"task": "inpaint", "mask_image": "aGVsbG8="}, InvalidImage, "mask_image"),
    "nothing to fill": ({"task": "outpaint", "mask_image": None}, InvalidImage, "mask_image"),
    "a large picture": (
        {"task": "img2img", "image": as_base64(photo(112, 112)), "width": 64, "height": 64},
        TooManyPixels,
        "image",
    ),
    "a picture that is too large to be drawn": (
        {"task": "img2img", "image": as_base64(photo(104, 104))},
        TooManyPixels,
        "image",
    ),
    "a large mask": (
        {"task": "inpaint", "mask_image": as_base64(photo(112, 112))},
        TooManyPixels,
        "mask_image",
    ),
    "a large picture to draw": ({"task": "inpaint", "height": 512}, TooManyPixels, "width"),
    "one from nothing": ({"width": 512, "height": 64}, TooManyPixels, "width"),
    "what becomes large": (
        {"task": "upscale", "model": "v2/upscale-x4", "image": as_base64(photo(28, 24))},
        TooManyPixels,
        "image",
    ),
}


@pytest.fixture(scope="module")
def odd_loras(shop: Path) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    wide = {f"{layer}.lora_down.weight": torch.ones(2, 2048),
            f"{layer}.lora_up.weight": torch.ones(8, 2)}  # fmt: skip
    lora_files.write(shop / "lora" / "wide.safetensors", wide)
    odd = {"lora_unet_conv_in.oft_blocks": torch.ones(1, 2, 2)}
    lora_files.write(shop / "lora" / "odd.safetensors", odd)
    path = lora_files.write(shop / "lora" / "short.safetensors", wide)
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded(
    shop: Path, odd_loras: None, why: str
) -> None:
    fields, error, field = REFUSED[why]
    if "watermark" in fields:
        pytest.importorskip("imwatermark")
    limits = Limits(max_pixels=100 * 100, max_input_pixels=110 * 110)
    engine = TorchEngine(shop, device="cpu", dtype="fp32", limits=limits)
    with pytest.raises(error) as caught:
        engine.admit("k", make_request(**{"model": "v1/sd1", **fields}))
    assert (caught.value.field or "") == field
    assert engine.loaded_models() == [] and not engine.is_busy()
    engine.close()


@pytest.mark.parametrize(
    ("package", "fields"),
    [
        ("scipy", {"sampler": "lms"}),
        ("torchsde", {"sampler": "dpmpp_sde_karras"}),
        ("imwatermark", {"watermark": True}),
    ],
)
def test_a_package_that_is_missing_is_told_before_anything_is_loaded(
    shop: Path, monkeypatch: pytest.MonkeyPatch, package: str, fields: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    engine = TorchEngine(shop, device="cpu", dtype="fp32")
    with pytest.raises(DependencyMissing):
        engine.admit("k", make_request(model="v1/sd1", **fields))
    assert engine.loaded_models() == []
    engine.close()


def test_a_picture_is_unpacked_once(keeper: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[ImageFile] = []
    prepare = ImageFile.load_prepare
    counted = lambda image: (unpacked.append(image), prepare(image))[1]  # noqa: E731
    request = make_request(model="v1/sd1", task="inpaint")
    monkeypatch.setattr(ImageFile, "load_prepare", counted)
    keeper.admit("k", request)
    keeper.drop("k")
    assert len(unpacked) == 2  # the picture and its mask


def test_a_negative_prompt_that_does_nothing_is_noted(keeper: TorchEngine) -> None:
    without, with_ = (
        done(keeper, guidance_scale=1.0, negative_prompt=said) for said in ("", "a AND (b)")
    )
    assert without.notes == [] and "negative prompt was not used" in with_.notes[0]
    assert (pixels(without) == pixels(with_)).all()


def test_a_depth_model_without_its_estimator_says_so(shop: Path, keeper: TorchEngine) -> None:
    folder = tiny.write_model(shop / "v2" / "blind", "sd2-depth")
    (folder / "depth_estimator" / "config.json").unlink()
    keeper.models()
    with pytest.raises(ModelUnsupported, match="depth estimator"):
        keeper.admit("k", make_request(model="v2/blind", task="img2img"))


def test_an_upscaled_picture_is_checked_before_it_is_made(shop: Path) -> None:
    engine = TorchEngine(shop, device="cpu", dtype="fp32", limits=Limits(max_pixels=100 * 100))
    said = {"task": "upscale", "model": "v2/upscale-x4"}
    with pytest.raises(TooManyPixels) as caught:
        engine.admit("k", make_request(**said, image=as_base64(photo(28, 24))))
    assert caught.value.field == "image"
    assert draw(engine, **said, image=as_base64(photo(24, 24))).shape == (96, 96, 3)
    engine.close()


# --- defaults and notes ------------------------------------------------------------------


def test_what_a_request_leaves_open_comes_from_the_model(keeper: TorchEngine) -> None:
    small = {"task": "upscale", "image": as_base64(photo(16, 16))}
    open_ = {"num_inference_steps": None, "guidance_scale": None, "sampler": None}
    used = done(keeper, model="v2/upscale-x4", **small, **open_).parameters
    assert (used.num_inference_steps, used.guidance_scale, used.sampler) == (30, 9.0, "ddim")
    used = done(keeper, model="v2/upscale-x4", **small, **open_ | {"guidance_scale": 2.0})
    assert used.parameters.guidance_scale == 2.0


def test_a_default_that_is_past_the_servers_limit_is_lowered(shop: Path) -> None:
    engine = TorchEngine(shop, device="cpu", dtype="fp32", limits=Limits(max_steps=3))
    assert done(engine, num_inference_steps=None).parameters.num_inference_steps == 3
    engine.close()


def test_a_strength_that_leaves_none_of_the_default_steps_gets_more(keeper: TorchEngine) -> None:
    asked = {"model": "v1/sd1", "task": "img2img", "strength": 0.04, "num_inference_steps": None}
    assert done(keeper, **asked).parameters.num_inference_steps == 25


@pytest.mark.parametrize("strength", [1e-9, 5e-324])
def test_a_strength_that_leaves_none_of_all_steps_there_may_be_is_refused(
    keeper: TorchEngine, strength: float
) -> None:
    asked = {"model": "v1/sd1", "task": "img2img", "num_inference_steps": None}
    with pytest.raises(InvalidField) as caught:
        keeper.admit("k", make_request(**asked, strength=strength))
    assert caught.value.field == "strength"


def test_an_edit_has_no_strength_and_says_so_if_one_is_stated(keeper: TorchEngine) -> None:
    edit = {"model": "v1/sd1-edit", "task": "img2img"}
    silent, noted = done(keeper, **edit), done(keeper, **edit, strength=0.3)
    assert silent.notes == [] and "strength" in noted.notes[0]
    assert silent.parameters.strength is None
    assert silent.parameters.image_guidance_scale == 1.5
    assert (pixels(silent) == pixels(noted)).all()


def test_a_model_that_is_told_its_guidance_reads_no_negative_prompt(keeper: TorchEngine) -> None:
    distilled = {"model": "v1/sd1-lcm", "guidance_scale": 4.0}
    without, with_ = done(keeper, **distilled), done(keeper, **distilled, negative_prompt="a")
    assert without.notes == [] and "negative prompt" in with_.notes[0]
    assert (pixels(without) == pixels(with_)).all()


def test_the_answer_says_how_it_was_fitted_into_memory(keeper: TorchEngine) -> None:
    memory = done(keeper).memory
    assert memory is not None
    assert memory.plan == "full" and 0 < memory.needed_bytes < memory.free_bytes
    tiled = done(keeper, memory_plan="tiling").memory
    assert tiled is not None and tiled.plan == "tiling"


# --- LoRAs and VAEs ----------------------------------------------------------------------


def test_a_lora_named_in_the_prompt_is_the_one_in_the_field(keeper: TorchEngine) -> None:
    field = done(keeper, prompt="a b", loras=[{"name": "bold", "weight": 0.8}])
    tag = done(keeper, prompt="a b<lora:bold:0.8>")
    assert (pixels(field) == pixels(tag)).all()
    assert (pixels(field) != pixels(done(keeper, prompt="a b"))).any()
    assert [lora.name for lora in field.parameters.loras] == ["bold"]


def test_requests_with_different_loras_are_drawn_as_if_alone(keeper: TorchEngine) -> None:
    wanted = {name: [{"name": name}] if name else [] for name in ("bold", "faint", "")}
    alone = {
        name: draw(keeper, model="v1/sd1", prompt="a", loras=loras)
        for name, loras in wanted.items()
    }
    among = {n: make_request(model="v1/sd1", prompt="a", loras=x) for n, x in wanted.items()}
    together = run(keeper, among)
    for name, expected in alone.items():
        assert (pixels(last(together[name])) == expected).all()


def test_a_model_is_as_it_was_after_a_lora(keeper: TorchEngine) -> None:
    before = draw(keeper, prompt="a", model="v1/sd1")
    draw(keeper, prompt="a", model="v1/sd1", loras=[{"name": "bold"}])
    assert (draw(keeper, prompt="a", model="v1/sd1") == before).all()


def test_an_unknown_lora_or_vae_is_an_error_of_its_field(keeper: TorchEngine) -> None:
    for fields, field in (({"loras": [{"name": "no"}]}, "loras"), ({"vae": "no"}, "vae")):
        with pytest.raises(ModelNotFound) as caught:
            keeper.admit("k", make_request(model="v1/sd1", **fields))
        assert caught.value.field == field
    assert not keeper.is_busy()


def test_another_vae_draws_only_the_pictures_that_ask_for_it(keeper: TorchEngine) -> None:
    before = draw(keeper, model="v1/sd1")
    mine = {"own": make_request(model="v1/sd1"), "other": make_request(model="v1/sd1", vae="other")}
    together = run(keeper, mine)
    assert abs(pixels(last(together["own"])) - before).max() <= 1
    assert abs(pixels(last(together["other"])) - before).max() > 30
    assert last(together["other"]).parameters.vae == "vae/other"
    assert last(together["own"]).parameters.vae == ""


def test_another_vae_also_reads_the_picture_to_start_from(keeper: TorchEngine) -> None:
    task = {"model": "v1/sd1", "task": "img2img", "strength": 0.5, "preview": True}
    assert abs(draw(keeper, **task, vae="other") - draw(keeper, **task)).max() > 30
