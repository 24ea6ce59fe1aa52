"""The NSFW filter checks what is drawn, or the client is told that it did not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from drawn import Pixels, last, make_request, pixels, run
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor

from runai.engine.catalogue import Entry
from runai.engine.devices import choose
from runai.engine.engine import TorchEngine
from runai.engine.safety import FOLDER, SafetyFilter
from runai.errors import FilterMissing
from runai.schema.events import Completed

ENTRY = Entry("v1/plain", "v1", "diffusers", Path("plain"))
ALL, NONE = -2.0, 2.0  # a likeness is a cosine: every picture is over the one, none over the other


def write_checker(folder: Path, threshold: float) -> StableDiffusionSafetyChecker:
    """A tiny safety checker that flags what is more like its concepts than `threshold`."""
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision = {**size, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    config = CLIPConfig(vision_config=vision, text_config=size, projection_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        checker = StableDiffusionSafetyChecker(config)
        checker.concept_embeds.data.normal_()
    checker.concept_embeds_weights.data.fill_(threshold)
    checker.save_pretrained(folder)
    return checker


def write_processor(folder: Path) -> CLIPImageProcessor:
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    processor.save_pretrained(folder)
    return processor


def write_filter(base: Path, threshold: float) -> None:
    write_checker(base / FOLDER, threshold)
    write_processor(base / FOLDER)


@pytest.fixture
def base(models: Path, tmp_path: Path) -> Path:
    shutil.copytree(models / "v1" / "plain", tmp_path / "v1" / "plain")
    return tmp_path


@pytest.fixture
def strict(base: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(base, device="cpu", dtype="fp32")
    yield engine
    engine.close()


@pytest.fixture
def lenient(base: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(base, device="cpu", dtype="fp32", nsfw_filter_missing="warn")
    yield engine
    engine.close()


def drawn(engine: TorchEngine, **fields: object) -> tuple[Completed, Pixels]:
    done = last(run(engine, {"k": make_request(nsfw_filter=True, **fields)})["k"])
    return done, pixels(done)


@pytest.mark.parametrize(("threshold", "flagged"), [(NONE, False), (ALL, True)])
def test_what_the_checker_flags_is_black_and_marked(
    base: Path, strict: TorchEngine, threshold: float, flagged: bool
) -> None:
    write_filter(base, threshold)
    done, picture = drawn(strict)
    assert done.images[0].nsfw is flagged
    assert (not picture.any()) is flagged
    assert picture.shape == (64, 64, 3)
    assert done.notes == []


def test_a_flagged_picture_gives_nothing_away_in_its_other_pictures(
    base: Path, strict: TorchEngine
) -> None:
    write_filter(base, ALL)
    done, _ = drawn(strict, num_images=3)
    assert all(picture.nsfw for picture in done.images)
    assert not any(pixels(done, i).any() for i in range(3))


def test_a_picture_like_a_concept_is_flagged_and_another_is_not(tmp_path: Path) -> None:
    checker = write_checker(tmp_path / FOLDER, NONE)
    processor = write_processor(tmp_path / FOLDER)
    bad, good = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    with torch.inference_mode():
        given = processor(bad, return_tensors="pt").pixel_values
        seen = checker.visual_projection(checker.vision_model(given)[1])
    checker.concept_embeds.data[3] = seen[0]
    checker.concept_embeds_weights.data[3] = 0.999
    checker.save_pretrained(tmp_path / FOLDER)
    safety = SafetyFilter([tmp_path], choose("cpu", "fp32"))
    assert safety.require(make_request(nsfw_filter=True), ENTRY) == []
    black, flagged = safety.check(bad)
    assert flagged and not np.asarray(black).any()
    same, flagged = safety.check(good)
    assert not flagged and same is good


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_model_that_brings_a_checker_serves_for_all_models(
    base: Path, strict: TorchEngine, variant: str | None
) -> None:
    shutil.copytree(base / "v1" / "plain", base / "v1" / "guarded")
    folder = base / "v1" / "guarded" / "safety_checker"
    write_checker(folder, ALL)
    write_processor(base / "v1" / "guarded" / "feature_extractor")
    if variant:
        (folder / "model.safetensors").rename(folder / f"model.{variant}.safetensors")
    done, picture = drawn(strict, model="v1/plain")
    assert done.images[0].nsfw and not picture.any()


def test_asked_for_and_absent_is_an_error_that_says_what_to_do(strict: TorchEngine) -> None:
    with pytest.raises(FilterMissing) as caught:
        strict.admit("k", make_request(nsfw_filter=True))
    assert caught.value.field == "nsfw_filter"
    assert "safety-checker" in caught.value.hint
    assert not strict.is_busy()
    assert last(run(strict, {"k": make_request()})["k"]).notes == []


def test_or_a_note_where_the_server_is_told_to_warn(base: Path, lenient: TorchEngine) -> None:
    done, picture = drawn(lenient)
    assert picture.std() > 5 and not done.images[0].nsfw
    [note] = done.notes
    assert note.startswith("The pictures were not checked: ")
    write_filter(base, ALL)  # from now on it is there
    done, picture = drawn(lenient)
    assert done.notes == [] and not picture.any()


def without_projection(file: Path) -> None:
    kept = load_file(file)
    del kept["visual_projection.weight"]
    save_file(kept, file, metadata={"format": "pt"})


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("spoil", [without_projection, cut_short, Path.unlink])
def test_a_damaged_checker_is_never_taken_for_a_sound_one(
    base: Path, strict: TorchEngine, spoil: object
) -> None:
    write_filter(base, NONE)
    assert callable(spoil)
    spoil(base / FOLDER / "model.safetensors")
    with pytest.raises(FilterMissing) as caught:
        strict.admit("k", make_request(nsfw_filter=True))
    assert "cannot be loaded" in caught.value.message


def test_a_damaged_checker_is_a_note_too_where_the_server_is_told_to_warn(
    base: Path, lenient: TorchEngine
) -> None:
    write_filter(base, NONE)
    cut_short(base / FOLDER / "model.safetensors")
    done, _ = drawn(lenient)
    [note] = done.notes
    assert "cannot be loaded" in note


def test_that_the_example_model_is_let_through_is_noted(tmp_path: Path) -> None:
    safety = SafetyFilter([tmp_path], choose("cpu", "fp32"))
    example = replace(ENTRY, example=True)
    [note] = safety.require(make_request(nsfw_filter=True), example)
    assert "not checked" in note
    assert safety.require(make_request(), example) == []
