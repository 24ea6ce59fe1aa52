"""Models come whole out of folders and single files, or fail with an error that says why."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import ldm
import pytest
import tiny
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from runai.engine import loading
from runai.engine.archs import ARCHS, Arch
from runai.engine.catalogue import Catalogue, Entry
from runai.engine.devices import choose
from runai.errors import ModelBroken, ModelUnsafe, ModelUnsupported

FP32 = choose("cpu", "fp32")


def tiny_archs(vocabulary: int) -> dict[str, Arch]:
    """The real table, with the tiny networks' sizes in its rows."""
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 768,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
    }

    def shrunk(arch: Arch) -> Arch:
        width = 768 if arch.version == "v1" else 1024
        linear = {"use_linear_projection": True} if arch.version == "v2" else {}
        unet = tiny.unet_config(arch.unet["in_channels"], cross_attention_dim=width, **linear)
        unet["sample_size"] = arch.unet["sample_size"]
        return replace(arch, unet=unet, vae=tiny.VAE, text={**text, "hidden_size": width})

    return {name: shrunk(arch) for name, arch in ARCHS.items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with nothing but a vocabulary."""
    base = tmp_path_factory.mktemp("base")
    tiny.write_tokenizer(base / "openai" / "clip-vit-large-patch14")
    return base


@pytest.fixture(scope="module")
def archs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Arch]:
    return tiny_archs(tiny.write_tokenizer(tmp_path_factory.mktemp("v") / "t"))


def networks(arch: Arch) -> tuple[Any, Any, Any]:
    torch.manual_seed(5)
    text = tiny.make_text_encoder(arch.text["vocab_size"], arch.text["hidden_size"])
    return tiny.make_unet(arch.unet), tiny.make_vae(arch.vae), text


def write(path: Path, arch: Arch, metadata: dict[str, str] | None = None) -> Entry:
    unet, vae, text = networks(arch)
    clip = ldm.clip_weights if arch.version == "v1" else ldm.open_clip_weights
    parts = (ldm.unet_weights(unet), ldm.vae_weights(vae), clip(text))
    ldm.write_checkpoint(path, parts, metadata or {})
    format_: Any = path.suffix[1:]
    return Entry(f"{arch.version}/{path.stem}", arch.version, format_, path)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("name", ["sd1", "sd1-inpaint", "sd2", "sd2-inpaint"])
def test_a_single_file_holds_the_networks_it_was_written_from(
    base: Path, archs: dict[str, Arch], tmp_path: Path, name: str, suffix: str
) -> None:
    entry = write(tmp_path / f"model{suffix}", archs[name])
    model = loading.load(entry, FP32, [base], archs)
    originals = networks(archs[name])
    loaded = (model.unet, model.vae, model.text_encoder)
    for original, again in zip(originals, loaded, strict=True):
        wanted, got = original.state_dict(), again.state_dict()
        assert wanted.keys() == got.keys()
        for key, value in wanted.items():
            torch.testing.assert_close(got[key], value, atol=2e-3, rtol=2e-3)
    assert not any(p.is_meta for part in loaded for p in part.parameters())
    assert model.tokenizer("ab").input_ids[1:-1]
    with torch.inference_mode():
        assert torch.isfinite(model.text_encoder(torch.tensor([[1, 2, 3]]))[0]).all()


def test_a_loaded_model_does_not_need_its_file_any_more(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    for suffix in (".safetensors", ".ckpt"):
        entry = write(tmp_path / f"m{suffix}", archs["sd1"])
        model = loading.load(entry, choose("cpu", "fp16"), [base], archs)
        entry.path.write_bytes(b"")  # what is still mapped would kill the process when read
        assert all(torch.isfinite(p).all() for p in model.unet.parameters())


def test_metadata_says_what_a_version_2_file_predicts(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    said = {"modelspec.prediction_type": "v"}
    entry = write(tmp_path / "v.safetensors", archs["sd2"], said)
    model = loading.load(entry, FP32, [base], archs)
    assert model.scheduler["prediction_type"] == "v_prediction"
    assert model.size == 768


def test_a_network_that_gives_the_noise_back_predicts_noise(archs: dict[str, Arch]) -> None:
    class Echo(torch.nn.Module):
        config = argparse.Namespace(cross_attention_dim=1024)

        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = sign

        def forward(self, noise: torch.Tensor, *_: Any, **__: Any) -> Any:
            return argparse.Namespace(sample=self.sign * noise + 0.1)

    assert loading._prediction(archs["sd2"], {"unet": Echo(1.0)}, FP32) == "epsilon"
    assert loading._prediction(archs["sd2"], {"unet": Echo(-0.1)}, FP32) == "v_prediction"
    assert loading._prediction(archs["sd1"], {"unet": Echo(-0.1)}, FP32) == "epsilon"


class Bomb:
    """A pickle that would run a command when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    proof = tmp_path / "it-ran"
    path = tmp_path / "bad.ckpt"
    content = {"state_dict": {"x": torch.zeros(1)}, "bomb": Bomb(proof)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelUnsafe, match=r"bad\.ckpt"):
        loading.load(Entry("v1/bad", "v1", "ckpt", path), FP32, [])
    assert not proof.exists()


def test_a_ckpt_of_the_old_form_is_read(base: Path, archs: dict[str, Arch], tmp_path: Path) -> None:
    entry = write(tmp_path / "old.ckpt", archs["sd1"])
    content = torch.load(entry.path, weights_only=True)
    torch.save(content, entry.path, _use_new_zipfile_serialization=False)
    assert loading.load(entry, FP32, [base], archs).size == 512


def test_without_a_vocabulary_the_error_says_what_to_get(
    archs: dict[str, Arch], tmp_path: Path
) -> None:
    entry = write(tmp_path / "m.safetensors", archs["sd1"])
    with pytest.raises(ModelBroken) as caught:
        loading.load(entry, FP32, [tmp_path], archs)
    assert "clip-vit-large-patch14" in caught.value.hint


def test_a_vocabulary_of_the_wrong_size_is_not_taken(
    archs: dict[str, Arch], tmp_path: Path
) -> None:
    folder = tmp_path / "openai" / "clip-vit-large-patch14"
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    entry = write(tmp_path / "m.safetensors", archs["sd1"])
    with pytest.raises(ModelBroken, match="vocabulary"):
        loading.load(entry, FP32, [tmp_path], archs)


def test_a_checkpoint_with_tensors_missing_is_broken(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    unet, vae, text = networks(archs["sd1"])
    kept = {k: v for k, v in ldm.unet_weights(unet).items() if "time_embed" not in k}
    parts = (kept, ldm.vae_weights(vae), ldm.clip_weights(text))
    path = ldm.write_checkpoint(tmp_path / "half.safetensors", parts, {})
    with pytest.raises(ModelBroken, match="missing"):
        loading.load(Entry("v1/half", "v1", "safetensors", path), FP32, [base], archs)


def damaged(models: Path, tmp_path: Path, name: str = "plain") -> Path:
    shutil.copytree(models / "v1" / name, tmp_path / "v1" / name)
    return tmp_path / "v1" / name


@pytest.mark.parametrize(
    "gone", ["unet/config.json", "vae/config.json", "text_encoder/config.json"]
)
def test_a_folder_without_a_part_says_which(models: Path, tmp_path: Path, gone: str) -> None:
    folder = damaged(models, tmp_path)
    (folder / gone).unlink()
    [entry] = Catalogue([tmp_path]).entries()
    with pytest.raises(ModelBroken, match=gone):
        loading.load(entry, FP32, [tmp_path])


def test_a_folder_with_truncated_weights_is_broken(models: Path, tmp_path: Path) -> None:
    weights = damaged(models, tmp_path) / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    [entry] = Catalogue([tmp_path]).entries()
    with pytest.raises(ModelBroken, match="v1/plain"):
        loading.load(entry, FP32, [tmp_path])


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_folder_without_a_vocabulary_is_broken(
    models: Path, tmp_path: Path, content: str | None
) -> None:
    tokenizer = damaged(models, tmp_path) / "tokenizer"
    shutil.rmtree(tokenizer)
    tokenizer.mkdir()
    if content is not None:
        (tokenizer / "tokenizer.json").write_text(content)
    [entry] = Catalogue([tmp_path]).entries()
    with pytest.raises(ModelBroken):
        loading.load(entry, FP32, [tmp_path])


def test_a_folder_with_only_the_fp16_variant_is_read(models: Path, tmp_path: Path) -> None:
    folder = damaged(models, tmp_path)
    UNet2DConditionModel.from_pretrained(folder / "unet").save_pretrained(
        folder / "unet", variant="fp16"
    )
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    [entry] = Catalogue([tmp_path]).entries()
    assert loading.load(entry, FP32, [tmp_path]).size == 64


def test_a_unet_of_unknown_channels_is_refused(models: Path, tmp_path: Path) -> None:
    folder = damaged(models, tmp_path)
    tiny.make_unet(tiny.unet_config(8)).save_pretrained(folder / "unet")
    [entry] = Catalogue([tmp_path]).entries()
    with pytest.raises(ModelUnsupported, match="8 input channels"):
        loading.load(entry, FP32, [tmp_path])


def test_networks_of_another_family_are_refused(models: Path, tmp_path: Path) -> None:
    folder = damaged(models, tmp_path)
    config = tiny.unet_config(class_embed_type="timestep")
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    [entry] = Catalogue([tmp_path]).entries()
    with pytest.raises(ModelUnsupported, match="class_embed_type"):
        loading.load(entry, FP32, [tmp_path])


def test_a_unet_for_another_text_encoder_is_refused(models: Path, tmp_path: Path) -> None:
    folder = damaged(models, tmp_path)
    wider = tiny.unet_config(cross_attention_dim=24)
    tiny.make_unet(wider).save_pretrained(folder / "unet")
    [entry] = Catalogue([tmp_path]).entries()
    with pytest.raises(ModelUnsupported, match="text encoder"):
        loading.load(entry, FP32, [tmp_path])


def test_weights_get_the_dtype_of_the_place(models: Path) -> None:
    entry = Catalogue([models]).find("v1/plain")
    model = loading.load(entry, choose("cpu", "bf16"), [models])
    parts = (model.unet, model.vae, model.text_encoder)
    assert {p.dtype for part in parts for p in part.parameters()} == {torch.bfloat16}
    assert isinstance(model.vae, AutoencoderKL)
    assert isinstance(model.text_encoder, CLIPTextModel)
