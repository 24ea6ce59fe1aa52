"""Our pictures are those of diffusers' own pipelines, sampler by sampler and task by task."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from drawn import draw, last, make_request, pixels, run
from reference import STEPS, Reference, note, worst

from runai.engine.engine import TorchEngine
from runai.engine.samplers import SCHEDULERS
from runai.schema.samplers import METHODS, SAMPLERS

TASKS = ("txt2img", "img2img", "inpaint", "outpaint")
MODELS = {"sd1": "v1/plain", "sd2-v": "v2/velocity"}


@pytest.fixture(scope="module")
def reference(models: Path) -> Reference:
    return Reference(models)


def test_every_public_sampler_has_a_scheduler() -> None:
    assert set(SCHEDULERS) == set(SAMPLERS)


@pytest.mark.parametrize("sampler", METHODS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", TASKS)
def test_a_picture_is_the_one_diffusers_draws(
    engine: TorchEngine, reference: Reference, task: str, model: str, sampler: str
) -> None:
    name = MODELS[model]
    fields = {"prompt": "a b c", "negative_prompt": "d", "num_inference_steps": STEPS}
    ours = draw(engine, task=task, model=name, sampler=sampler, **fields)
    difference = worst(ours, reference.draw(name, model, task, sampler, **_strength(task, None)))
    note(task, model, sampler, difference)
    assert difference <= 1


def _strength(task: str, strength: float | None) -> dict[str, Any]:
    if task == "txt2img":
        return {}
    return {"strength": strength or (0.8 if task == "img2img" else 1.0)}


@pytest.mark.parametrize("sampler", METHODS)
@pytest.mark.parametrize("task", ["inpaint", "img2img"])
def test_parity_holds_at_a_strength_that_skips_steps(
    engine: TorchEngine, reference: Reference, task: str, sampler: str
) -> None:
    fields = {"prompt": "a b c", "negative_prompt": "d", "num_inference_steps": STEPS}
    ours = draw(engine, task=task, sampler=sampler, strength=0.6, **fields)
    assert worst(ours, reference.draw("v1/plain", "sd1", task, sampler, strength=0.6)) <= 1


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_parity_holds_with_and_without_guidance(
    engine: TorchEngine, reference: Reference, guidance: float
) -> None:
    fields = {"prompt": "a b c", "negative_prompt": "d", "num_inference_steps": STEPS}
    ours = draw(engine, sampler="euler", guidance_scale=guidance, **fields)
    theirs = reference.draw("v1/plain", "sd1", "txt2img", "euler", guidance_scale=guidance)
    assert worst(ours, theirs) <= 1


def test_eta_reaches_ddim(engine: TorchEngine, reference: Reference) -> None:
    fields = {"prompt": "a b c", "negative_prompt": "d", "num_inference_steps": STEPS}
    ours = draw(engine, sampler="ddim", eta=0.7, **fields)
    assert worst(ours, reference.draw("v1/plain", "sd1", "txt2img", "ddim", eta=0.7)) <= 1
    assert worst(ours, reference.draw("v1/plain", "sd1", "txt2img", "ddim", eta=0.0)) > 1


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "pndm", "euler"])
def test_a_configuration_that_leaves_things_unsaid_means_what_it_means_to_diffusers(
    models: Path, tmp_path: Path, sampler: str
) -> None:
    shutil.copytree(models / "v1" / "plain", tmp_path / "v1" / "bare")
    path = tmp_path / "v1" / "bare" / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    bare = {k: v for k, v in config.items() if k not in ("clip_sample", "steps_offset")}
    path.write_text(json.dumps(bare))
    scheduler = getattr(diffusers, SCHEDULERS[sampler].scheduler).from_config(bare)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the pipeline says what it repairs
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(
            tmp_path / "v1" / "bare", scheduler=scheduler, local_files_only=True
        )
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(7)
    theirs = pipe("a b c", num_inference_steps=STEPS, generator=generator).images[0]
    own = TorchEngine(tmp_path, device="cpu", dtype="fp32")
    fields = {"prompt": "a b c", "num_inference_steps": STEPS, "model": "bare"}
    ours = draw(own, sampler=sampler, **fields)
    own.close()
    assert worst(ours, np.asarray(theirs).astype(int)) <= 1


def test_image_number_i_is_the_picture_of_seed_plus_i(
    engine: TorchEngine, reference: Reference
) -> None:
    fields = {"prompt": "a b c", "negative_prompt": "d", "num_inference_steps": STEPS}
    done = last(run(engine, {"k": make_request(num_images=3, sampler="euler_a", **fields)})["k"])
    assert [picture.seed for picture in done.images] == [7, 8, 9]
    for i in range(3):
        theirs = reference.draw("v1/plain", "sd1", "txt2img", "euler_a", seed=7 + i)
        assert worst(pixels(done, i), theirs) <= 1


STRANGERS: tuple[dict[str, Any], ...] = (
    {"prompt": "z", "num_inference_steps": 9, "sampler": "heun", "seed": 1},
    {"prompt": "yy", "num_inference_steps": 2, "guidance_scale": 1.0, "seed": 2},
    {"task": "inpaint", "prompt": "x x", "sampler": "dpm2_a", "seed": 3},
    {"prompt": "w", "model": "v2/velocity", "sampler": "pndm", "seed": 4},
)


@pytest.mark.parametrize("sampler", METHODS)
def test_a_picture_drawn_among_strangers_is_the_one_drawn_alone(
    engine: TorchEngine, sampler: str
) -> None:
    mine = {"prompt": "a b c", "negative_prompt": "d", "sampler": sampler}
    alone = draw(engine, **mine)
    crowd = {f"s{i}": make_request(**fields) for i, fields in enumerate(STRANGERS)}
    together = run(engine, {**crowd, "mine": make_request(**mine)})
    assert worst(pixels(last(together["mine"])), alone) <= 1


def test_the_same_request_alone_gives_the_same_bytes(engine: TorchEngine) -> None:
    request = make_request(prompt="a b c", sampler="euler_a")
    first, second = (last(run(engine, {"k": request})["k"]).images[0].png for _ in range(2))
    assert first == second
