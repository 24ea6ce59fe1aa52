"""Diffusers folders of every arch come whole, or fail with an error that says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from runai.engine import loading
from runai.engine.archs import ARCHS
from runai.engine.catalogue import Entry
from runai.engine.devices import choose
from runai.errors import ModelBroken, ModelUnsafe, ModelUnsupported

FP32 = choose("cpu", "fp32")
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


def entry_of(folder: Path, arch: str) -> Entry:
    return Entry(f"v1/{folder.name}", ARCHS[arch].version, "diffusers", folder, arch=arch)


def load(folder: Path, arch: str = "sd1") -> Any:
    return loading.load(entry_of(folder, arch), FP32, [])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("folders") / "whole")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A sound sd1 folder to damage."""
    return Path(shutil.copytree(whole, tmp_path / "plain"))


def assert_unet_of(model: Any, whole: Path) -> None:
    wanted = load_file(whole / UNET)
    got = model.unet.state_dict()
    assert wanted.keys() == got.keys()
    assert all(torch.equal(got[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("arch", [name for name in tiny.MODELS if name in ARCHS])
def test_a_folder_holds_what_diffusers_reads_from_it(tmp_path: Path, arch: str) -> None:
    folder = tiny.write_model(tmp_path / "m", arch)
    model = load(folder, arch)
    kinds = {False: CLIPTextModel, True: CLIPTextModelWithProjection}
    parts = [(UNet2DConditionModel, "unet", model.unet), (AutoencoderKL, "vae", model.vae)]
    for text, name in zip(model.texts, tiny.MODELS[arch].texts, strict=True):
        parts.append((kinds[text.pooled], name, text.network))
    for kind, name, got in parts:
        wanted = kind.from_pretrained(folder / name).state_dict()
        assert wanted.keys() == got.state_dict().keys()
        assert all(torch.equal(got.state_dict()[n], value) for n, value in wanted.items())
    assert (model.depth is not None) == (arch == "sd2-depth")
    assert model.scheduler["prediction_type"] == tiny.MODELS[arch].prediction


# --- forms in which weights are met ------------------------------------------------------


def as_variant(folder: Path) -> None:
    UNet2DConditionModel.from_pretrained(folder / "unet").save_pretrained(
        folder / "unet", variant="fp16"
    )
    (folder / UNET).unlink()


def as_shards(folder: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / UNET).unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="20KB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1


def as_shards_of_a_variant(folder: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / UNET).unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="20KB", variant="fp16")
    assert len(list((folder / "unet").glob("*fp16*.safetensors"))) > 1


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / UNET), (folder / UNET).with_suffix(".bin"))
    (folder / UNET).unlink()


def beside_averages(folder: Path) -> None:
    zeros = {name: torch.zeros_like(value) for name, value in load_file(folder / UNET).items()}
    save_file(zeros, folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors")


@pytest.mark.parametrize(
    "change", [as_variant, as_shards, as_shards_of_a_variant, as_pickle, beside_averages]
)
def test_weights_are_read_from_every_form_they_come_in(
    whole: Path, folder: Path, change: Callable[[Path], None]
) -> None:
    change(folder)
    assert_unet_of(load(folder), whole)


def test_the_attention_of_an_old_vae_is_found(whole: Path, folder: Path) -> None:
    weights = load_file(folder / VAE)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, before in old.items():
        weights = {name.replace(new, before): value for name, value in weights.items()}
    save_file(weights, folder / VAE)
    wanted = load_file(whole / VAE)
    got = load(folder).vae.state_dict()
    assert all(torch.equal(got[name], value) for name, value in wanted.items())


def test_text_encoders_saved_by_older_and_newer_transformers_are_read(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    weights = {n.removeprefix("text_model."): value for n, value in load_file(path).items()}
    for prefix in ("", "text_model."):
        save_file({prefix + name: value for name, value in weights.items()}, path)
        got = load(folder).texts[0].network.state_dict()
        assert all(torch.equal(got[name], value) for name, value in weights.items())


# --- damaged ones ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gone", ["unet/config.json", "vae/config.json", "text_encoder/config.json"]
)
def test_a_folder_without_a_part_says_which(folder: Path, gone: str) -> None:
    (folder / gone).unlink()
    with pytest.raises(ModelBroken, match=gone):
        load(folder)


def test_a_folder_without_weights_says_where(folder: Path) -> None:
    (folder / UNET).unlink()
    with pytest.raises(ModelBroken, match="plain/unet holds no weights"):
        load(folder)


def test_a_folder_with_truncated_weights_is_broken(folder: Path) -> None:
    (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-100])
    with pytest.raises(ModelBroken, match="cut short"):
        load(folder)


def test_a_depth_estimator_without_its_configuration_of_pictures_is_broken(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "deep", "sd2-depth")
    shutil.rmtree(folder / "feature_extractor")
    with pytest.raises(ModelBroken, match=r"feature_extractor/preprocessor_config\.json"):
        load(folder, "sd2-depth")


@pytest.mark.parametrize("content", ["", "[]", '{"in_channels": "four"}', "\x00"])
def test_a_folder_with_a_damaged_configuration_is_broken(folder: Path, content: str) -> None:
    (folder / "unet" / "config.json").write_text(content)
    with pytest.raises(ModelBroken, match="v1/plain"):
        load(folder)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": {"a": "../../../etc/passwd"}}', "no"])
def test_an_index_of_shards_cannot_lead_anywhere_else(folder: Path, index: str) -> None:
    (folder / UNET).rename(folder / "unet" / "hidden")
    (folder / f"{UNET}.index.json").write_text(index)
    with pytest.raises(ModelBroken, match="v1/plain"):
        load(folder)


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_folder_without_a_vocabulary_is_broken(folder: Path, content: str | None) -> None:
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    if content is not None:
        (folder / "tokenizer" / "tokenizer.json").write_text(content)
    with pytest.raises(ModelBroken, match="vocabulary"):
        load(folder)


def test_a_hostile_pickle_in_a_folder_is_refused(folder: Path) -> None:
    (folder / UNET).unlink()
    torch.save({"x": eval}, (folder / UNET).with_suffix(".bin"))
    with pytest.raises(ModelUnsafe, match=r"names __builtin__\.eval"):
        load(folder)


def test_a_folder_in_which_a_file_cannot_be_opened_is_broken(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / UNET).mkdir()
    with pytest.raises(ModelBroken):
        load(folder)


# --- networks that cannot be called ------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 8}, "8 input channels"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"cross_attention_dim": 24}, "text encoder"),
        ({"encoder_hid_dim": 8, "encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type"),
    ],
)
def test_a_unet_that_is_not_the_archs_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    UNet2DConditionModel.from_config(tiny.unet_config(**change)).save_pretrained(folder / "unet")
    with pytest.raises(ModelUnsupported, match=message):
        load(folder)


def test_a_text_encoder_of_another_family_is_refused(folder: Path) -> None:
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "roberta"}))
    with pytest.raises(ModelUnsupported, match="roberta"):
        load(folder)
