"""Between .ckpt, .safetensors and diffusers folder no bit changes, and every form loads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import ldm
import pytest
import tiny
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as diffusers_own
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from runai.engine import conversion
from runai.engine.archs import ARCHS, Arch
from runai.engine.conversion.pieces import text_names
from runai.engine.detection import Finding
from runai.errors import (
    InvalidSetting,
    ModelBroken,
    ModelUnsafe,
    ModelUnsupported,
    NoSpace,
    OutOfMemory,
    VocabularyMissing,
)

Tensors = dict[str, torch.Tensor]
NOT_READ = (".position_ids", ".logit_scale")  # in such files, and of no use to anybody
KINDS = [
    "sd1",
    "sd1-inpaint",
    "sd1-edit",
    "sd2",
    "sd2-v",
    "sd2-inpaint",
    "sdxl",
    "sdxl-inpaint",
    "sdxl-refiner",
    "ssd-1b",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny folder of an arch, made once; its parts are of three number formats."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tiny.write_model(tmp_path_factory.mktemp(name) / name, name)
            for part, dtype in (("unet", torch.float16), ("vae", torch.bfloat16)):
                recast(made[name] / part / "diffusion_pytorch_model.safetensors", dtype)
        return made[name]

    return folder


def recast(path: Path, dtype: torch.dtype) -> None:
    tensors = {name: value.to(dtype) for name, value in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with nothing but a tiny vocabulary."""
    base = tmp_path_factory.mktemp("base")
    tiny.write_tokenizer(base / "openai" / "clip-vit-large-patch14")
    return base


def tiny_archs(folder: Path, name: str) -> dict[str, Arch]:
    """The row of an arch with a tiny folder's configurations in it."""
    row = ARCHS[name]
    config = {part.name: _config(part) for part in folder.iterdir() if part.is_dir()}
    named = zip(text_names(row), row.texts, strict=True)
    texts = tuple(replace(text, config=config[part]) for part, text in named)
    found = replace(row, unet=config["unet"], vae=config["vae"], texts=texts)
    velocity = replace(found, name=f"{name}-v", scheduler=ARCHS["sd2-v"].scheduler)
    return {name: found} | ({velocity.name: velocity} if name == "sd2" else {})


def _config(part: Path) -> dict[str, Any]:
    path = part / "config.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


class Kit:
    """Conversions of one tiny model."""

    def __init__(self, name: str, folder: Path, base: Path) -> None:
        self.name, self.folder, self.base = name, folder, base
        self.archs = tiny_archs(folder, name)
        self.finding = Finding("model", name)

    @cached_property
    def file(self) -> Path:
        """The model as a single file."""
        target = self.folder.with_name("file") / f"{self.name}.safetensors"
        if not target.exists():
            self.convert(self.folder, target)
        return target

    def convert(self, source: Path, target: Path, **options: bool) -> conversion.Conversion:
        planned = self.plan(source, target)
        planned.write(**options)
        return planned

    def plan(self, source: Path, target: Path) -> conversion.Conversion:
        return conversion.plan(source, target, [self.base], archs=self.archs, finding=self.finding)


@pytest.fixture
def kit(request: pytest.FixtureRequest, folders: Callable[[str], Path], base: Path) -> Kit:
    name = getattr(request, "param", "sd1")
    return Kit(name, folders(name), base)


every_kind = pytest.mark.parametrize("kit", KINDS, indirect=True)


def of_folder(folder: Path) -> dict[str, Tensors]:
    """The tensors of each part, without the outer name that some versions leave out."""
    return {
        path.parent.name: {n.removeprefix("text_model."): v for n, v in load_file(path).items()}
        for path in sorted(folder.glob("*/*.safetensors"))
    }


def same(one: Tensors, other: Tensors) -> bool:
    assert one.keys() == other.keys()
    return all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8))
        for name in one
    )


# --- round trips -------------------------------------------------------------------------


@every_kind
def test_folder_to_file_to_folder_changes_no_bit(kit: Kit, tmp_path: Path) -> None:
    kit.convert(kit.file, tmp_path / "b")
    before, after = of_folder(kit.folder), of_folder(tmp_path / "b")
    assert before.keys() == after.keys()
    assert all(same(before[part], after[part]) for part in before)


@every_kind
def test_file_to_folder_to_file_changes_no_bit(kit: Kit, tmp_path: Path) -> None:
    kit.convert(kit.file, tmp_path / "b")
    kit.convert(tmp_path / "b", tmp_path / "c.safetensors")
    one, other = kit.file, tmp_path / "c.safetensors"
    assert same(load_file(one), load_file(other))
    assert one.read_bytes()[-10_000:] == other.read_bytes()[-10_000:]


@every_kind
def test_ckpt_to_safetensors_to_ckpt_changes_no_bit(kit: Kit, tmp_path: Path) -> None:
    kit.convert(kit.folder, tmp_path / "a.ckpt")
    kit.convert(tmp_path / "a.ckpt", tmp_path / "b.safetensors")
    kit.convert(tmp_path / "b.safetensors", tmp_path / "c.ckpt")
    read = [torch.load(tmp_path / name, weights_only=True) for name in ("a.ckpt", "c.ckpt")]
    assert [list(content) for content in read] == [["state_dict"]] * 2
    assert same(read[0]["state_dict"], read[1]["state_dict"])
    assert same(load_file(tmp_path / "b.safetensors"), read[0]["state_dict"])


def test_what_is_compared_is_not_empty(kit: Kit, tmp_path: Path) -> None:
    tensors = load_file(kit.file)
    assert len(tensors) > 150
    assert {value.dtype for value in tensors.values()} == {
        torch.float16,
        torch.bfloat16,
        torch.float32,
    }
    assert all(
        value.float().std() > 0
        for name, value in tensors.items()
        if "bias" not in name and value.dim() > 1
    )


# --- the names, against others' ----------------------------------------------------------


@pytest.mark.parametrize("kit", ["sd1", "sd2", "sd2-inpaint"], indirect=True)
def test_the_names_in_a_file_are_the_originals(kit: Kit, tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(kit.folder / "unet", torch_dtype=torch.float16)
    vae = AutoencoderKL.from_pretrained(kit.folder / "vae", torch_dtype=torch.bfloat16)
    text = CLIPTextModel.from_pretrained(kit.folder / "text_encoder")
    texts = ldm.open_clip_weights if kit.name.startswith("sd2") else ldm.clip_weights
    original = {**ldm.unet_weights(unet), **ldm.vae_weights(vae), **texts(text)}
    used = {n: value for n, value in original.items() if not n.endswith(NOT_READ)}
    assert same(load_file(kit.file), used)


@every_kind
def test_diffusers_own_converters_make_the_same_folder_of_a_file(kit: Kit, tmp_path: Path) -> None:
    weights = load_file(kit.file)
    before = of_folder(kit.folder)
    unet = UNet2DConditionModel.load_config(kit.folder / "unet")
    vae = AutoencoderKL.load_config(kit.folder / "vae")
    assert same(
        diffusers_own.convert_ldm_unet_checkpoint(dict(weights), config=unet), before["unet"]
    )
    assert same(diffusers_own.convert_ldm_vae_checkpoint(dict(weights), config=vae), before["vae"])


@pytest.mark.parametrize("kit", ["sdxl", "sdxl-refiner"], indirect=True)
def test_diffusers_own_converter_makes_the_same_second_text_encoder(
    kit: Kit, tmp_path: Path
) -> None:
    model = CLIPTextModelWithProjection.from_pretrained(kit.folder / "text_encoder_2")
    prefix = kit.archs[kit.name].texts[-1].prefix
    made = diffusers_own.convert_open_clip_checkpoint(model, load_file(kit.file), prefix=prefix)
    flat = {name.removeprefix("text_model."): value for name, value in made.items()}
    assert same(flat, of_folder(kit.folder)["text_encoder_2"])


# --- what is written is read -------------------------------------------------------------


@every_kind
def test_diffusers_loads_the_folder_that_is_written(kit: Kit, tmp_path: Path) -> None:
    import diffusers

    kit.convert(kit.file, tmp_path / "b")
    index = json.loads((tmp_path / "b" / "model_index.json").read_text())
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "b", local_files_only=True)
    assert type(pipeline).__name__ == index["_class_name"] == tiny.MODELS[kit.name].pipeline
    for name, network in (("unet", pipeline.unet), ("vae", pipeline.vae)):
        wanted = of_folder(kit.folder)[name]
        found = network.state_dict()
        assert all(torch.equal(found[n], wanted[n].to(found[n].dtype)) for n in wanted)
    prediction = pipeline.scheduler.config.prediction_type
    assert prediction == tiny.MODELS[kit.name].prediction


def test_the_vocabulary_in_a_folder_is_the_one_of_the_base_path(kit: Kit, tmp_path: Path) -> None:
    kit.convert(kit.file, tmp_path / "b")
    given = kit.base / "openai" / "clip-vit-large-patch14"
    made = tmp_path / "b" / "tokenizer"
    assert json.loads((made / "vocab.json").read_text()) == json.loads(
        (given / "vocab.json").read_text()
    )
    assert (made / "merges.txt").read_text() == (given / "merges.txt").read_text()


def test_without_a_vocabulary_there_is_no_folder(kit: Kit, tmp_path: Path) -> None:
    with pytest.raises(VocabularyMissing):
        conversion.plan(kit.file, tmp_path / "b", [], archs=kit.archs, finding=kit.finding)


# --- metadata and what is left over ------------------------------------------------------


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def test_a_file_says_what_it_is(kit: Kit, tmp_path: Path) -> None:
    kit.convert(kit.folder, tmp_path / "my model.safetensors")
    assert metadata_of(tmp_path / "my model.safetensors") == {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.title": "my model",
        "modelspec.resolution": "512x512",
        "modelspec.prediction_type": "epsilon",
    }


def test_metadata_goes_through_a_folder_and_back(kit: Kit, tmp_path: Path) -> None:
    said = {"modelspec.title": "Mine", "modelspec.author": "me", "ss_note": "größer"}
    save_file(load_file(kit.file), tmp_path / "b.safetensors", said)
    kit.convert(tmp_path / "b.safetensors", tmp_path / "c")
    kit.convert(tmp_path / "c", tmp_path / "d.safetensors")
    assert metadata_of(tmp_path / "d.safetensors").items() >= said.items()


def test_what_has_no_place_in_a_folder_is_listed(kit: Kit, tmp_path: Path) -> None:
    more = {"model_ema.decay": torch.ones(()), "alphas_cumprod": torch.ones(1000)}
    save_file({**load_file(kit.file), **more}, tmp_path / "b.safetensors")
    planned = kit.convert(tmp_path / "b.safetensors", tmp_path / "b")
    assert planned.dropped == ["alphas_cumprod", "model_ema.decay"]


def test_between_files_everything_is_kept_whatever_it_is(tmp_path: Path) -> None:
    tensors = {
        "lora.up": torch.randn(3, 2).to(torch.float8_e4m3fn),
        "steps": torch.tensor(7),
        "turned": torch.randn(4, 6).T,
        "half": torch.randn(5)[1:4],
        "mask": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
    }
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "a.ckpt")
    conversion.plan(tmp_path / "a.ckpt", tmp_path / "b.safetensors").write()
    conversion.plan(tmp_path / "b.safetensors", tmp_path / "c.ckpt").write()
    whole = {name: value.contiguous() for name, value in tensors.items()}
    assert_equal(load_file(tmp_path / "b.safetensors"), whole)
    assert_equal(torch.load(tmp_path / "c.ckpt", weights_only=True)["state_dict"], whole)
    assert (tmp_path / "c.ckpt").stat().st_size < 10_000


def assert_equal(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype and value.shape == other[name].shape
        assert torch.equal(value.float(), other[name].float()), name


@pytest.mark.parametrize("velocity", [True, False])
def test_what_an_sd_2_file_predicts_is_written_into_its_folder(
    folders: Callable[[str], Path], base: Path, tmp_path: Path, velocity: bool
) -> None:
    kit = Kit("sd2", folders("sd2"), base)
    said = {"modelspec.prediction_type": "v" if velocity else "epsilon"}
    save_file(load_file(kit.file), tmp_path / "b.safetensors", said)
    kit.convert(tmp_path / "b.safetensors", tmp_path / "b")
    written = json.loads((tmp_path / "b" / "scheduler" / "scheduler_config.json").read_text())
    assert written["prediction_type"] == ("v_prediction" if velocity else "epsilon")


# --- care --------------------------------------------------------------------------------


def test_a_target_that_is_there_is_kept_unless_forced(kit: Kit, tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    target.write_text("mine")
    with pytest.raises(InvalidSetting, match="there already"):
        kit.convert(kit.folder, target)
    assert target.read_text() == "mine"
    kit.convert(kit.folder, target, force=True)
    assert len(load_file(target)) > 150


def test_a_folder_that_is_there_is_replaced_whole_when_forced(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "b" / "unet").mkdir(parents=True)
    (tmp_path / "b" / "unet" / "old").touch()
    kit.convert(kit.file, tmp_path / "b", force=True)
    assert not (tmp_path / "b" / "unet" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_source_that_shrinks_leaves_nothing_behind(kit: Kit, tmp_path: Path) -> None:
    kit.convert(kit.folder, tmp_path / "a.safetensors")
    planned = kit.plan(tmp_path / "a.safetensors", tmp_path / "b")
    with (tmp_path / "a.safetensors").open("r+b") as file:
        file.truncate(50_000)
    with pytest.raises(ModelBroken, match=r"cut short|changed while it was read"):
        planned.write()
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_progress_counts_to_the_total(kit: Kit, tmp_path: Path) -> None:
    counted: list[int] = []
    planned = kit.plan(kit.folder, tmp_path / "a.safetensors")
    planned.write(counted.append)
    assert sum(counted) == planned.total_bytes and len(counted) > 150
    assert planned.total_bytes < (tmp_path / "a.safetensors").stat().st_size


def test_a_full_disk_is_told_before_anything_is_written(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(NoSpace, match="GB are needed"):
        kit.convert(kit.folder, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_ckpt_that_memory_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    """Of 4 TB of nothing, which take no room on the disk."""
    header = {"a": {"dtype": "U8", "shape": [2**42], "data_offsets": [0, 2**42]}}
    raw = json.dumps(header).encode()
    source = tmp_path / "large.safetensors"
    with source.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + 2**42)
    planned = conversion.plan(source, tmp_path / "b.ckpt")
    with pytest.raises(OutOfMemory, match=r"b\.ckpt takes 4398\.05 GB"):
        planned.write()
    assert [path.name for path in tmp_path.iterdir()] == ["large.safetensors"]


def test_a_hostile_pickle_is_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": {"a": Hostile()}}, tmp_path / "a.ckpt")
    with pytest.raises(ModelUnsafe):
        conversion.plan(tmp_path / "a.ckpt", tmp_path / "b.safetensors")
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_other_sizes_is_refused(kit: Kit, tmp_path: Path) -> None:
    """The example model, say: a single file of it could not be read again."""
    with pytest.raises(ModelUnsupported, match="other sizes than the published one"):
        conversion.plan(kit.folder, tmp_path / "a.safetensors", finding=kit.finding)


@pytest.mark.parametrize("kind", ["sd2-depth", "upscale-x4"])
def test_a_model_that_is_more_than_its_networks_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ModelUnsupported, match="more than its networks"):
        conversion.plan(tmp_path / "a", tmp_path / "a.safetensors", finding=Finding("model", kind))


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("there.ckpt", "b.ckpt", "of the form ckpt already"),
        ("none.ckpt", "b.safetensors", "There is no "),
        ("there.ckpt", "b.gguf", "ends in .gguf"),
        ("folder", "other", "of the form diffusers already"),
    ],
)
def test_a_pair_that_makes_no_sense_is_refused(
    tmp_path: Path, source: str, target: str, said: str
) -> None:
    (tmp_path / "there.ckpt").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidSetting, match=re.escape(said)):
        conversion.plan(tmp_path / source, tmp_path / target)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.safetensors", "safetensors"),
        ("A.CKPT", "ckpt"),
        ("my-model", "diffusers"),
        ("my-model-v1.5", "diffusers"),
    ],
)
def test_the_ending_says_the_form(name: str, form: str) -> None:
    assert conversion.form_of(Path(name)) == form
