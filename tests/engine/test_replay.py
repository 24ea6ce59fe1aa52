"""What an answer's parameters say, sent back as a request, draws the very same file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ldm
import lora_files
import pytest
import tiny
import torch
from drawn import as_base64, last, make_request, photo, pixels, run
from safetensors.torch import save_file

from runai.engine.engine import TorchEngine
from runai.schema.codec import parse_task
from runai.schema.events import Completed

MODELS = {
    "v1/sd1": "sd1",
    "v1/sd1-edit": "sd1-edit",
    "v1/sd1-lcm": "sd1-lcm",
    "v2/upscale-x4": "upscale-x4",
    "xl/sdxl": "sdxl",
    "xl/small-turbo": "sdxl",
}
WIDE_VAE = {**tiny.VAE, "block_out_channels": [32] * 4, "norm_num_groups": 32}
OPEN = {"num_inference_steps": None, "guidance_scale": None, "sampler": None, "seed": None}
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"prompt": "a b", "negative_prompt": "c"},
    "nothing said": {"model": "", "model_version": "v1", **OPEN},
    "a tag in plain text": {"prompt": "a b <lora:bold:0.8>"},
    "a tag in what only looks like the web UI's": {"prompt": "a AND b \\ c <lora:bold:0.8>"},
    "tags within tags": {"prompt": "a <lora<lora:bold:0.5>:faint:0.5> b"},
    "a tag and a field": {
        "prompt": "(a:1.3) b <lora:bold:0.2:0.4>",
        "loras": [{"name": "bold", "weight": 0.1}, {"name": "faint", "text_weight": 0.0}],
    },
    "a tag where the negative prompt decides": {
        "prompt": "a <lora:bold:0.5>",
        "negative_prompt": "(b) <lora:faint>",
    },
    "a tag in text that is stated plain": {"prompt": "a<lora:b>", "prompt_dialect": "plain"},
    "compel's call": {"prompt": "a withLora(bold, 0.7) b"},
    "compel's call where the negative prompt decides": {
        "prompt": "a withLora(bold, 0.7)",
        "negative_prompt": "(c:1.4)",
    },
    "compel": {"prompt": "(a)++ b-", "negative_prompt": "c"},
    "compel, and": {"prompt": '("a", "b").and(1, 0.5)', "negative_prompt": "c+"},
    "a schedule": {"prompt": "[a:b:0.5] [c|d]", "num_inference_steps": 6, "sampler": "heun"},
    "layers left out": {"prompt": "a (b:1.2)", "clip_skip": 1},
    "another VAE": {"prompt": "a", "vae": "other"},
    "what a sampler adds": {"prompt": "a", "sampler": "ddim", "eta": 0.7},
    "guidance at some steps": {"prompt": "a", "guidance_start": 0.2, "guidance_end": 0.8},
    "features used again": {"prompt": "a", "reuse": 2, "num_inference_steps": 6},
    "merged tokens": {"prompt": "a", "token_merging": 0.5},
    "noise of its own": {"prompt": "a", "sampler": "dpmpp_2m_sde_karras", "num_images": 2},
    "a picture": {"task": "img2img", "prompt": "a", "strength": 0.6},
    "a mask": {"task": "inpaint", "prompt": "a", "strength": 0.8, "width": 72, "height": 64},
    "a picture to fill": {"task": "outpaint", "prompt": "a"},
    "an edit": {"model": "v1/sd1-edit", "task": "img2img", "strength": 0.2, "prompt": "a"},
    "a picture to enlarge": {
        "model": "v2/upscale-x4",
        "task": "upscale",
        "image": as_base64(photo(16, 16)),
        "noise_level": 40,
        **OPEN,
    },
    "a model that is told its guidance": {"model": "v1/sd1-lcm", "prompt": "a", **OPEN},
    "SDXL": {"model": "xl/sdxl", "prompt": "a (b:1.4) <lora:large:0.5>", "width": 128},
    "SDXL without a negative prompt": {"model": "xl/sdxl", "negative_prompt": " ", "seed": None},
    "a distilled model": {"model": "xl/small-turbo", "prompt": "a", "negative_prompt": "b", **OPEN},
    "a model that was not there": {"model": "nope", "model_fallback": True, "model_version": "xl"},
    "a watermark": {"prompt": "a", "watermark": True, "width": 256, "height": 256},
}
ONLY_TOLD = {"model_hash"}
NOT_FOR_UPSCALING = {"width", "height"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchEngine]:
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("models")
    for seed, (name, arch) in enumerate(MODELS.items()):
        tiny.write_model(base / name, arch, seed=seed)
    (base / "vae").mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(77)
        weights = ldm.vae_weights(tiny.make_vae(WIDE_VAE))
    named = {k.removeprefix("first_stage_model."): v.contiguous() for k, v in weights.items()}
    save_file(named, base / "vae" / "other.safetensors")
    engine = TorchEngine(base, device="cpu", dtype="fp32")
    small, large = (_loaded(engine, name) for name in ("v1/sd1", "xl/sdxl"))
    for seed, name in enumerate(("bold", "faint")):
        lora_files.write(base / "lora" / f"{name}.safetensors", lora_files.kohya(small, seed))
    lora_files.write(base / "lora" / "large.safetensors", lora_files.peft(large))
    engine.models()  # looks at the disk
    yield engine
    engine.close()


def _loaded(engine: TorchEngine, name: str) -> Any:
    engine.admit("k", make_request(model=name))
    model = engine._drawings["k"].model
    engine.drop("k")
    return model


def _done(engine: TorchEngine, request: Any) -> Completed:
    return last(run(engine, {"k": request})["k"])


def _replayed(first: Any, done: Completed) -> Any:
    """The request that an answer's parameters are, with the pictures of the first one."""
    said = done.parameters.model_dump(exclude_none=True, exclude=ONLY_TOLD)
    if first.task == "upscale":
        said = {k: v for k, v in said.items() if k not in NOT_FOR_UPSCALING}
    given = first.model_dump(mode="json", include={"image", "mask_image"}, exclude_none=True)
    return parse_task({"id": "again", **given, **said})


@pytest.mark.parametrize("name", REQUESTS)
def test_parameters_sent_back_draw_the_same_files(engine: TorchEngine, name: str) -> None:
    fields = {"model": "v1/sd1", **REQUESTS[name]}
    if fields.get("watermark"):
        pytest.importorskip("imwatermark")
    first = make_request(**fields)
    done = _done(engine, first)
    again = _done(engine, _replayed(first, done))
    assert pixels(done).std() > 5
    assert [p.png for p in again.images] == [p.png for p in done.images]
    assert again.parameters == done.parameters


def test_what_the_tags_of_a_prompt_ask_for_is_in_the_parameters(engine: TorchEngine) -> None:
    request = make_request(
        model="v1/sd1",
        prompt="a <lora:bold:0.5:0.25>b",
        negative_prompt="c<lora:faint>",
        loras=[{"name": "faint", "weight": 2.0}],
    )
    used = _done(engine, request).parameters
    assert (used.prompt, used.negative_prompt) == ("a b", "c")
    said = [(lora.name, lora.weight, lora.text_weight) for lora in used.loras]
    assert said == [("faint", 2.0, None), ("bold", 0.25, 0.5)]
