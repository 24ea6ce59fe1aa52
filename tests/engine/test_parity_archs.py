"""Every arch draws, in each of its tasks, the pictures of diffusers' pipelines."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from drawn import Pixels, as_base64, draw, half_mask, last, make_request, photo, pixels, run
from PIL import Image
from reference import STEPS, Reference, given, note, worst

from runai.engine.engine import TorchEngine
from runai.schema.events import Preview

FOLDERS = {"sd1": "v1", "sd2": "v2", "upscale": "v2"}
# what test_parity.py compares for sd1 and sd2-v: the rest
_ALL = ("txt2img", "img2img", "inpaint", "outpaint")
TASKS: dict[str, tuple[str, ...]] = {
    "sd1-inpaint": ("inpaint", "outpaint"),
    "sd1-edit": ("img2img",),
    "sd1-lcm": ("txt2img", "img2img", "inpaint"),
    "sd2": _ALL,
    "sd2-inpaint": ("inpaint", "outpaint"),
    "sd2-depth": ("img2img",),
    "sdxl": _ALL,
    "sdxl-inpaint": ("inpaint", "outpaint"),
    "sdxl-edit": ("img2img",),
    "sdxl-refiner": ("img2img", "inpaint", "outpaint"),
    "ssd-1b": _ALL,
    "upscale-x4": ("upscale",),
}
CASES = [(arch, task) for arch, tasks in TASKS.items() for task in tasks]
SAMPLERS = ("euler", "euler_a", "dpmpp_2m_karras", "ddim")
FIRST = [(arch, tasks[0]) for arch, tasks in TASKS.items()]
# few-step samplers, for what is drawn with them
FEW_STEPS = [(arch, task) for arch, task in CASES if arch in ("sd1-lcm", "sdxl")]


def folder(arch: str) -> str:
    return f"{FOLDERS.get(arch.split('-')[0], 'xl')}/{arch}"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with a tiny model of every arch."""
    base = tmp_path_factory.mktemp("zoo")
    for seed, arch in enumerate(TASKS):
        tiny.write_model(base / folder(arch), arch, seed=seed)
    _write_shifted(base)
    return base


@pytest.fixture(scope="module")
def keeper(zoo: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(zoo, device="cpu", dtype="fp32")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(zoo: Path) -> Reference:
    return Reference(zoo)


def fields(arch: str, task: str, sampler: str, **more: Any) -> dict[str, Any]:
    """A request's fields that mean what `Reference` draws."""
    pictures = {name: as_base64(picture) for name, picture in given(arch, task).items()}
    said = {"prompt": "a b c", "negative_prompt": "d", "num_inference_steps": STEPS}
    said = {**said, "guidance_scale": 7.5, "model": folder(arch), **pictures, **more}
    return {"task": task, "sampler": sampler, **said}


def theirs(reference: Reference, arch: str, task: str, sampler: str, **more: Any) -> Pixels:
    more = {**_unsaid(arch, task), **more}
    return reference.draw(folder(arch), arch, task, sampler, **more)


def _unsaid(arch: str, task: str) -> dict[str, Any]:
    """What our requests take for granted where the pipelines take something else."""
    if task == "upscale":
        return {"guidance_scale": 7.5, "noise_level": 20}
    if task == "txt2img" or arch.endswith("-edit"):
        return {"guidance_scale": 7.5}
    return {"guidance_scale": 7.5, "strength": 0.8 if task == "img2img" else 1.0}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("arch", "task"), CASES)
def test_a_picture_is_the_one_diffusers_draws(
    keeper: TorchEngine, reference: Reference, arch: str, task: str, sampler: str
) -> None:
    ours = draw(keeper, **fields(arch, task, sampler))
    difference = worst(ours, theirs(reference, arch, task, sampler))
    note(task, arch, sampler, difference)
    assert difference <= 1


@pytest.mark.parametrize("sampler", ["lcm", "tcd"])
@pytest.mark.parametrize(("arch", "task"), FEW_STEPS)
def test_parity_holds_for_samplers_of_few_steps(
    keeper: TorchEngine, reference: Reference, arch: str, task: str, sampler: str
) -> None:
    ours = draw(keeper, **fields(arch, task, sampler, guidance_scale=1.5))
    assert worst(ours, theirs(reference, arch, task, sampler, guidance_scale=1.5)) <= 1


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(("arch", "task"), FIRST)
def test_parity_holds_with_and_without_guidance(
    keeper: TorchEngine, reference: Reference, arch: str, task: str, guidance: float
) -> None:
    ours = draw(keeper, **fields(arch, task, "euler", guidance_scale=guidance))
    expected = theirs(reference, arch, task, "euler", guidance_scale=guidance)
    assert worst(ours, expected) <= 1
    assert worst(ours, theirs(reference, arch, task, "euler")) > 1


@pytest.mark.parametrize(
    ("arch", "task"), [(a, t) for a, t in CASES if t != "txt2img" and "strength" in _unsaid(a, t)]
)
def test_parity_holds_at_a_strength_that_skips_steps(
    keeper: TorchEngine, reference: Reference, arch: str, task: str
) -> None:
    ours = draw(keeper, **fields(arch, task, "euler_a", strength=0.6))
    assert worst(ours, theirs(reference, arch, task, "euler_a", strength=0.6)) <= 1


@pytest.mark.parametrize("arch", ["sd1-edit", "sdxl-edit"])
def test_how_closely_an_edit_keeps_to_the_picture_is_a_scale_of_its_own(
    keeper: TorchEngine, reference: Reference, arch: str
) -> None:
    ours = draw(keeper, **fields(arch, "img2img", "euler", image_guidance_scale=2.5))
    expected = theirs(reference, arch, "img2img", "euler", image_guidance_scale=2.5)
    assert worst(ours, expected) <= 1
    assert worst(ours, theirs(reference, arch, "img2img", "euler")) > 1


@pytest.mark.parametrize("level", [0, 150])
def test_the_noise_level_reaches_the_upscaler(
    keeper: TorchEngine, reference: Reference, level: int
) -> None:
    ours = draw(keeper, **fields("upscale-x4", "upscale", "ddim", noise_level=level))
    expected = theirs(reference, "upscale-x4", "upscale", "ddim", noise_level=level)
    assert worst(ours, expected) <= 1
    assert worst(ours, theirs(reference, "upscale-x4", "upscale", "ddim")) > 1


def test_a_picture_to_enlarge_is_fitted_to_whole_latents(
    keeper: TorchEngine, reference: Reference
) -> None:
    odd = photo(23, 17)
    ours = draw(keeper, **fields("upscale-x4", "upscale", "euler", image=as_base64(odd)))
    assert ours.shape == (64, 80, 3)
    assert worst(ours, theirs(reference, "upscale-x4", "upscale", "euler", image=odd)) <= 1


WIDE = [("sdxl", "txt2img"), ("sdxl", "inpaint"), ("sdxl-refiner", "img2img")]


@pytest.mark.parametrize(("arch", "task"), WIDE)
def test_sdxl_is_told_the_height_and_the_width_in_their_order(
    keeper: TorchEngine, reference: Reference, arch: str, task: str
) -> None:
    wide = {"image": photo(96, 64), "mask_image": half_mask(96, 64)}
    wide = {name: wide[name] for name in given(arch, task)}
    ours = draw(
        keeper,
        **fields(arch, task, "euler", **{k: as_base64(v) for k, v in wide.items()}),
        width=96,
        height=64,
    )
    size = {} if task == "img2img" else {"width": 96, "height": 64}
    assert worst(ours, theirs(reference, arch, task, "euler", **wide, **size)) <= 1


def _write_shifted(base: Path) -> None:
    """An SDXL model whose VAE states mean and deviation of its latents, as a few do."""
    path = tiny.write_model(base / "xl" / "shifted", "sdxl", seed=99) / "vae" / "config.json"
    said = {"latents_mean": [-1.6, 1.1, 2.0, 0.5], "latents_std": [8.4, 5.8, 5.3, 4.7]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **said}))


@pytest.mark.parametrize("task", ["txt2img", "img2img"])
def test_a_vae_that_states_its_statistics_is_read_with_them(
    keeper: TorchEngine, reference: Reference, task: str
) -> None:
    ours = draw(keeper, **fields("sdxl", task, "euler", model="xl/shifted"))
    more = _unsaid("sdxl", task)
    assert worst(ours, reference.draw("xl/shifted", "sdxl", task, "euler", **more)) <= 1


def test_a_depth_model_keeps_to_the_depths_of_the_picture(keeper: TorchEngine) -> None:
    flat = draw(keeper, **fields("sd2-depth", "img2img", "euler", strength=1.0))
    other = as_base64(photo(seed=3))
    assert (draw(keeper, **fields("sd2-depth", "img2img", "euler", image=other)) != flat).any()


@pytest.mark.parametrize(("arch", "task"), FIRST)
def test_a_picture_drawn_among_strangers_is_the_one_drawn_alone(
    keeper: TorchEngine, arch: str, task: str
) -> None:
    """The others share its model and size, not its guidance, seed, sampler or step."""
    mine = fields(arch, task, "euler_a")
    others = {
        "none": fields(arch, task, "ddim", guidance_scale=1.0, seed=1),
        "more": fields(arch, task, "heun", guidance_scale=4.0, seed=2, num_inference_steps=8),
        "text": fields(arch, task, "euler", prompt="z " * 90, seed=3),
    }
    alone = draw(keeper, **mine)
    crowd = {key: make_request(**said) for key, said in others.items()}
    done = run(keeper, {**crowd, "mine": make_request(**mine)})
    assert worst(pixels(last(done["mine"])), alone) <= 1


@pytest.mark.parametrize("arch", ["sd1-edit", "sdxl", "upscale-x4"])
def test_image_number_i_is_the_picture_of_seed_plus_i(
    keeper: TorchEngine, reference: Reference, arch: str
) -> None:
    task = TASKS[arch][0]
    done = last(
        run(keeper, {"k": make_request(**fields(arch, task, "euler_a", num_images=2))})["k"]
    )
    assert worst(pixels(done, 1), theirs(reference, arch, task, "euler_a", seed=8)) <= 1


@pytest.mark.parametrize("arch", TASKS)
def test_every_arch_can_be_watched(keeper: TorchEngine, arch: str) -> None:
    """Previews, of the size of the latents, which end up looking like the picture."""
    said = fields(arch, TASKS[arch][0], "euler", num_inference_steps=12, preview=True)
    events = run(keeper, {"k": make_request(**said)})["k"]
    previews = [event for event in events if isinstance(event, Preview)]
    steps = [Image.open(io.BytesIO(preview.png)) for preview in previews]
    assert [preview.step for preview in previews] == [4, 8]
    side = 16 if arch == "upscale-x4" else 8
    assert {picture.size for picture in steps} == {(side, side)}
    assert np.asarray(steps[-1]).std() > 5
