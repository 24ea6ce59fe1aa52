"""LoRAs that make a few-step model of another one: which are known, and what that changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import lora_files
import numpy as np
import pytest
import tiny
import torch
from drawn import Pixels, last, make_request, pixels, run

from runai.engine import detection, loading
from runai.engine.archs import Defaults
from runai.engine.catalogue import Catalogue, Entry
from runai.engine.detection import few_step_loras
from runai.engine.devices import Place
from runai.engine.engine import TorchEngine
from runai.engine.loras_few_steps import brought_by
from runai.schema.events import Completed

OPEN = {"num_inference_steps": None, "guidance_scale": None, "sampler": None}
FILES = ("lcm-lora-sdv1-5", "Hyper-SD15-2steps-lora", "turbo-cars", "sd_turbo_lora")
MODEL = Entry("v1/m", "v1", "safetensors", Path("m.safetensors"), arch="sd1")


@pytest.mark.parametrize(
    ("name", "kind", "steps"),
    [
        ("lcm-lora-sdv1-5", "lcm", None),
        ("LCM_LoRA_Weights_SD15", "lcm", None),
        ("lcm", "lcm", None),
        ("TCD-SD15-LoRA", "tcd", None),
        ("sdxl_lightning_4step_lora", "lightning", 4),
        ("SDXL-Lightning-8steps-lora", "lightning", 8),
        ("Hyper-SDXL-1step-lora", "hyper", 1),
        ("Hyper-SD15-8steps-CFG-lora", "hyper", 8),
        ("Hyper-SDXL-12steps-CFG-lora", "hyper", 12),
        ("sd_xl_turbo_lora_v1", "turbo", None),
        ("turbo-porsche", None, None),
        ("turbo_lora", None, None),
        ("lightning-strike-v2", None, None),
        ("hyperrealism", None, None),
        ("hyper-detail-lora", None, None),
        ("calcm-lora", None, None),
        ("for-lcm-and-lightning", None, None),
    ],
)
def test_a_lora_is_of_few_steps_if_it_is_called_as_the_published_ones_are(
    name: str, kind: str | None, steps: int | None
) -> None:
    assert few_step_loras.kind_of(name) == kind
    if kind:
        assert few_step_loras.steps_in(name) == steps


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    tiny.write_model(folder / "v1" / "plain")
    place = Place(torch.device("cpu"), torch.float32)
    model = loading.load(Catalogue([folder]).find("v1/plain"), place, [folder])
    for seed, name in enumerate(FILES):
        lora_files.write(folder / "lora" / f"{name}.safetensors", lora_files.kohya(model, seed))
    return folder


@pytest.fixture(scope="module")
def engine(base: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(base, device="cpu", dtype="fp32")
    yield engine
    engine.close()


def drawn(engine: TorchEngine, *loras: tuple[str, float], **fields: Any) -> Completed:
    wanted = [{"name": name, "weight": weight} for name, weight in loras]
    return last(run(engine, {"k": make_request(prompt="a b c", loras=wanted, **fields)})["k"])


def used(done: Completed) -> Defaults:
    said = done.parameters
    return Defaults(said.num_inference_steps, said.guidance_scale, said.sampler)


@pytest.mark.parametrize(
    ("loras", "defaults"),
    [
        ([("lcm-lora-sdv1-5", 1.0)], Defaults(4, 1.0, "lcm")),
        ([("lcm-lora-sdv1-5", 0.5), ("turbo-cars", 1.0)], Defaults(4, 1.0, "lcm")),
        ([("Hyper-SD15-2steps-lora", 1.0)], Defaults(2, 0.0, "ddim_sgm_uniform")),
        ([("sd_turbo_lora", 1.0)], Defaults(4, 0.0, "euler_a_sgm_uniform")),
        ([("turbo-cars", 1.0)], Defaults()),
        ([("lcm-lora-sdv1-5", 0.4)], Defaults()),
        ([("lcm-lora-sdv1-5", 1.0), ("lcm-lora-sdv1-5", -1.0)], Defaults()),
        ([("lcm-lora-sdv1-5", 1.0), ("sd_turbo_lora", 1.0)], Defaults()),
    ],
)
def test_what_a_request_leaves_open_is_what_the_lora_was_made_for(
    engine: TorchEngine, loras: list[tuple[str, float]], defaults: Defaults
) -> None:
    done = drawn(engine, *loras, **OPEN)
    assert used(done) == defaults
    assert done.notes == []


def test_a_tag_in_the_prompt_does_the_same(engine: TorchEngine) -> None:
    request = make_request(prompt="a <lora:lcm-lora-sdv1-5:1>", **OPEN)
    assert used(last(run(engine, {"k": request})["k"])) == Defaults(4, 1.0, "lcm")


def test_what_a_request_says_is_done_with_a_note_where_it_is_far_from_that(
    engine: TorchEngine,
) -> None:
    said = {"num_inference_steps": 20, "guidance_scale": 7.5, "sampler": "euler"}
    done = drawn(engine, ("lcm-lora-sdv1-5", 1.0), **said)
    assert used(done) == Defaults(20, 7.5, "euler")
    steps, sampler = done.notes
    assert "lcm-lora-sdv1-5 is made for at most 8 steps and a guidance of 2" in steps
    assert sampler == ("lora/lcm-lora-sdv1-5 is made for the sampler lcm; euler was used as asked.")


def test_a_little_more_is_done_without_a_note(engine: TorchEngine) -> None:
    done = drawn(engine, ("lcm-lora-sdv1-5", 1.0), **{**OPEN, "num_inference_steps": 6})
    assert used(done) == Defaults(6, 1.0, "lcm")
    assert done.notes == []


def test_the_picture_is_the_one_diffusers_draws_as_the_lora_is_published(
    engine: TorchEngine, base: Path
) -> None:
    """DDIM on trailing timesteps, as https://huggingface.co/ByteDance/Hyper-SD has it."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(base / "v1" / "plain", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(base / "lora", weight_name="Hyper-SD15-2steps-lora.safetensors")
    pipe.scheduler = diffusers.DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing"
    )
    generator = torch.Generator("cpu").manual_seed(7)
    theirs = pipe("a b c", num_inference_steps=2, guidance_scale=0.0, generator=generator)
    ours: Pixels = pixels(drawn(engine, ("Hyper-SD15-2steps-lora", 1.0), **OPEN))
    expected = np.asarray(theirs.images[0]).astype(int)
    assert expected.std() > 15
    assert abs(ours - expected).max() <= 1


def lora(name: str, kind: str | None = None) -> Entry:
    path = Path("Lora") / f"{name}.safetensors"
    distilled = kind or few_step_loras.kind_of(name)
    return Entry(name, "v1", "safetensors", path, kind="lora", distillation=distilled)


def test_one_that_keeps_guidance_is_drawn_with_it() -> None:
    found = brought_by(MODEL, [(lora("Hyper-SD15-8steps-CFG-lora"), 1.0)])
    assert found is not None
    assert found.defaults == Defaults(8, 5.0, "ddim_sgm_uniform")
    assert list(found.surprises(Defaults(8, 7.5, "ddim_sgm_uniform"))) == []


def test_a_model_that_was_distilled_itself_stays_what_it_is() -> None:
    turbo = Entry("v1/t", "v1", "safetensors", Path("t"), arch="sd1", distillation="turbo")
    assert brought_by(turbo, [(lora("lcm-lora-sdv1-5"), 1.0)]) is None


def test_of_two_of_a_kind_the_one_with_more_steps_counts() -> None:
    both = [(lora(f"sdxl_lightning_{n}step_lora"), 1.0) for n in (8, 2)]
    found = brought_by(MODEL, both)
    assert found is not None
    assert found.defaults.num_inference_steps == 8


def test_a_file_that_has_no_name_of_its_own_has_its_folders(base: Path, tmp_path: Path) -> None:
    source = base / "lora" / f"{FILES[0]}.safetensors"
    path = tmp_path / "lcm-lora-sdv1-5" / "pytorch_lora_weights.safetensors"
    path.parent.mkdir()
    path.write_bytes(source.read_bytes())
    assert detection.identify(path).distillation == "lcm"


def test_a_name_in_the_metadata_counts(base: Path, tmp_path: Path) -> None:
    tensors = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.ones(2, 16)}
    tensors["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"] = torch.ones(16, 2)
    for title, kind in (("LCM LoRA for SD 1.5", "lcm"), ("Lightning and turbo cars", None)):
        said = {"modelspec.title": title}
        path = lora_files.write(tmp_path / "some.safetensors", tensors, said)
        assert detection.identify(path).distillation == kind
