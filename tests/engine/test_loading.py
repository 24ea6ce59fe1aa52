"""Single files of every arch come whole, or fail with an error that says why."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import ldm
import pytest
import single_files
import tiny
import torch
from diffusers import AutoencoderKL

from runai.engine import loading
from runai.engine.archs import ARCHS, Arch
from runai.engine.devices import choose
from runai.engine.distillations import DISTILLATIONS
from runai.engine.loading import single
from runai.engine.loading.weights import Reader
from runai.errors import ModelBroken, ModelUnsupported, VocabularyMissing

FP32 = choose("cpu", "fp32")
FP16 = choose("cpu", "fp16")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with nothing but a vocabulary."""
    base = tmp_path_factory.mktemp("base")
    single_files.write_vocabulary(base)
    return base


@pytest.fixture(scope="module")
def archs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Arch]:
    tokens = single_files.write_vocabulary(tmp_path_factory.mktemp("v"))
    return single_files.tiny_archs(tokens)


def networks_of(model: Any) -> list[Any]:
    return [model.unet, model.vae, *(text.network for text in model.texts)]


def assert_same(model: Any, arch: Arch, dtype: torch.dtype = torch.float16) -> None:
    """The model's weights are those that `single_files.write` has written in `dtype`."""
    originals = single_files.make_networks(arch).all
    for original, loaded in zip(originals, networks_of(model), strict=True):
        wanted, got = original.state_dict(), loaded.state_dict()
        assert wanted.keys() == got.keys()
        for key, value in wanted.items():
            assert torch.equal(got[key], value.to(dtype).to(model.dtype)), key


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("name", single_files.NAMES)
def test_a_single_file_holds_the_networks_it_was_written_from(
    base: Path, archs: dict[str, Arch], tmp_path: Path, name: str, suffix: str
) -> None:
    said = {"modelspec.prediction_type": "v"} if name == "sd2-v" else None
    entry = single_files.write(tmp_path / f"model{suffix}", archs[name], said)
    model = loading.load(entry, FP32, [base], archs)
    assert_same(model, archs[name])
    assert not any(p.is_meta for part in networks_of(model) for p in part.parameters())
    assert [text.pooled for text in model.texts] == [t.pooled for t in ARCHS[name].texts]
    for text in model.texts:
        ids = text.tokenizer("ab", return_tensors="pt").input_ids
        with torch.inference_mode():
            assert torch.isfinite(text.network(ids)[0]).all()


def test_a_prompt_is_filled_up_as_the_text_encoder_learnt_it(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    entry = single_files.write(tmp_path / "m.safetensors", archs["sdxl"])
    model = loading.load(entry, FP32, [base], archs)
    padding = [text.tokenizer("", padding="max_length").input_ids[-1] for text in model.texts]
    assert padding == [model.texts[0].tokenizer.eos_token_id, 0]
    assert model.texts[1].tokenizer.decode([0]) == "!"


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_weights_are_converted_from_what_they_are_stored_as(
    base: Path, archs: dict[str, Arch], tmp_path: Path, stored: torch.dtype, dtype: str
) -> None:
    entry = single_files.write(tmp_path / "m.safetensor", archs["sd1"], dtype=stored)
    model = loading.load(entry, choose("cpu", dtype), [base], archs)
    assert_same(model, archs["sd1"], stored)
    assert {p.dtype for part in networks_of(model) for p in part.parameters()} == {model.dtype}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_loaded_model_does_not_need_its_file_any_more(
    base: Path, archs: dict[str, Arch], tmp_path: Path, suffix: str
) -> None:
    entry = single_files.write(tmp_path / f"m{suffix}", archs["sd1"])
    model = loading.load(entry, FP16, [base], archs)
    entry.path.write_bytes(b"")  # what was still mapped would kill the process when read
    assert all(torch.isfinite(p).all() for p in model.unet.parameters())


# --- what lies in such files besides, or elsewhere ---------------------------------------


def parts(arch: Arch) -> list[ldm.Weights]:
    return single_files.parts_of(arch, single_files.make_networks(arch))


def load_parts(path: Path, weights: list[ldm.Weights], arch: Arch, base: Path) -> Any:
    ldm.write_checkpoint(path, weights, {})
    entry = single_files.entry_of(path, arch)
    return loading.load(entry, FP32, [base], {arch.name: arch})


def test_averages_of_the_training_beside_the_weights_are_not_taken_for_them(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    unet, *others = parts(archs["sd1"])
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): torch.zeros_like(value)
        for name, value in unet.items()
    }
    path = tmp_path / "ema.ckpt"
    assert_same(load_parts(path, [averages, unet, *others], archs["sd1"], base), archs["sd1"])


def test_weights_without_a_state_dict_around_them_are_found(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    entry = single_files.write(tmp_path / "m.ckpt", archs["sd1"])
    torch.save(torch.load(entry.path, weights_only=True)["state_dict"], entry.path)
    assert_same(loading.load(entry, FP32, [base], archs), archs["sd1"])


def test_a_ckpt_of_the_old_form_is_read(base: Path, archs: dict[str, Arch], tmp_path: Path) -> None:
    entry = single_files.write(tmp_path / "old.ckpt", archs["sd1"])
    content = torch.load(entry.path, weights_only=True)
    torch.save(content, entry.path, _use_new_zipfile_serialization=False)
    assert_same(loading.load(entry, FP32, [base], archs), archs["sd1"])


def test_tensors_that_are_views_of_others_are_read(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    entry = single_files.write(tmp_path / "m.ckpt", archs["sd1"])
    weights = torch.load(entry.path, weights_only=True)["state_dict"]
    turned = {n: v.T.contiguous().T if v.dim() == 2 else v for n, v in weights.items()}
    whole = torch.cat([torch.zeros(3), weights["model.diffusion_model.out.2.bias"]])
    turned["model.diffusion_model.out.2.bias"] = whole[3:].half()
    torch.save({"state_dict": turned}, entry.path)
    assert_same(loading.load(entry, FP32, [base], archs), archs["sd1"])


def test_text_encoder_tensors_are_found_under_their_newer_names(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    unet, vae, text = parts(archs["sd1"])
    flat = {name.replace("text_model.", ""): value for name, value in text.items()}
    path = tmp_path / "flat.safetensors"
    assert_same(load_parts(path, [unet, vae, flat], archs["sd1"], base), archs["sd1"])


def test_a_unet_under_diffusers_names_is_found(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    _, *others = parts(archs["sdxl"])
    unet = single_files.make_networks(archs["sdxl"]).unet.state_dict()
    for prefix in ("", "unet.", "model.diffusion_model."):
        named = {prefix + name: value for name, value in unet.items()}
        path = tmp_path / f"d{prefix}safetensors"
        assert_same(
            load_parts(path.with_suffix(".safetensors"), [named, *others], archs["sdxl"], base),
            archs["sdxl"],
        )


def test_a_checkpoint_without_a_vae_takes_the_one_beside_it_or_says_so(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    unet, vae, text = parts(archs["sd1"])
    path = tmp_path / "bare.safetensors"
    with pytest.raises(ModelBroken, match=r"bare\.safetensors holds no VAE") as caught:
        load_parts(path, [unet, text], archs["sd1"], base)
    assert "bare.vae.safetensors" in caught.value.hint
    alone = {name.removeprefix("first_stage_model."): value for name, value in vae.items()}
    ldm.write_checkpoint(tmp_path / "bare.vae.safetensors", [alone], {})
    assert_same(load_parts(path, [unet, text], archs["sd1"], base), archs["sd1"])


def test_a_depth_model_takes_its_estimator_from_the_base_paths(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    entry = single_files.write(tmp_path / "m.safetensors", archs["sd2-depth"])
    assert loading.load(entry, FP32, [base], archs).depth is None
    whole = tiny.write_model(tmp_path / "whole", "sd2-depth")
    home = tmp_path / "models" / "Intel" / "dpt-hybrid-midas"
    home.parent.mkdir(parents=True)
    (whole / "depth_estimator").rename(home)
    (whole / "feature_extractor" / "preprocessor_config.json").rename(
        home / "preprocessor_config.json"
    )
    model = loading.load(entry, FP32, [base, tmp_path / "models"], archs)
    assert model.depth is not None
    with torch.inference_mode():
        depths = model.depth.network(torch.rand(1, 3, 32, 32)).predicted_depth
    assert depths.std() > 0


# --- what an SD 2 UNet predicts ----------------------------------------------------------


def with_widths(arch: Arch, width: int) -> Arch:
    """As wide in its text as the published ones, by which a file is known."""
    tokens = arch.texts[0].config["vocab_size"]
    config = tiny.make_text_encoder(tokens, width).config.to_dict()
    texts = (replace(arch.texts[0], config=config),)
    return replace(arch, texts=texts, unet={**arch.unet, "cross_attention_dim": width})


def load_wide(
    path: Path, arch: Arch, archs: dict[str, Arch], base: Path, **extra: torch.Tensor
) -> Any:
    """A file of an arch, wide, with more in it, loaded by what it says itself."""
    table = {name: with_widths(archs[name], 1024) for name in ("sd2", "sd2-v")}
    width = 768 if arch.version == "v1" else 1024
    table |= {"sd1": with_widths(archs["sd1"], 768)}
    weights = single_files.parts_of(
        with_widths(arch, width), single_files.make_networks(with_widths(arch, width))
    )
    ldm.write_checkpoint(path, [*weights, extra], {})
    entry = replace(single_files.entry_of(path, arch), arch="")
    return loading.load(entry, FP32, [base], table)


def test_metadata_says_what_a_version_2_file_predicts(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    wide = with_widths(archs["sd2"], 1024)
    said = {"modelspec.prediction_type": "v"}
    entry = replace(single_files.write(tmp_path / "v.safetensors", wide, said), arch="")
    table = {"sd2": wide, "sd2-v": with_widths(archs["sd2-v"], 1024)}
    model = loading.load(entry, FP32, [base], table)
    assert model.scheduler["prediction_type"] == "v_prediction"
    assert model.arch.name == "sd2-v"
    assert model.size == 768


def test_a_file_that_does_not_say_what_it_predicts_is_asked(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    # random weights give neither the noise nor the picture back: that is "not the noise"
    model = load_wide(tmp_path / "m.safetensors", archs["sd2"], archs, base)
    assert model.arch.name == "sd2-v"
    assert model.scheduler["prediction_type"] == "v_prediction"


def test_a_file_marked_as_trained_to_pure_noise_is_drawn_from_there(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    model = load_wide(tmp_path / "m.safetensors", archs["sd1"], archs, base, **marks)
    assert model.scheduler["prediction_type"] == "v_prediction"
    assert model.scheduler["rescale_betas_zero_snr"]
    assert model.scheduler["timestep_spacing"] == "trailing"


# --- models of few steps -----------------------------------------------------------------


def test_a_model_of_few_steps_brings_its_own_defaults(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    entry = single_files.write(tmp_path / "Some_XL_Lightning.safetensors", archs["sdxl"])
    model = loading.load(replace(entry, distillation="lightning"), FP32, [base], archs)
    assert model.defaults == DISTILLATIONS["lightning"].defaults
    assert model.scheduler["timestep_spacing"] == "trailing"


def test_a_unet_that_is_told_its_guidance_is_built_to_hear_it(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    told = replace(archs["sd1"], unet={**archs["sd1"].unet, "time_cond_proj_dim": 8})
    entry = single_files.write(tmp_path / "m.safetensors", told)
    entry = replace(entry, distillation="lcm")
    model = loading.load(entry, FP32, [base], archs)
    assert model.guidance_width == 8
    assert model.defaults.guidance_scale == DISTILLATIONS["lcm"].told_guidance
    assert_same(model, told)


def test_a_network_that_gives_the_noise_back_predicts_noise() -> None:
    class Echo(torch.nn.Module):
        config = argparse.Namespace(cross_attention_dim=1024)

        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = sign

        def forward(self, noise: torch.Tensor, *_: Any, **__: Any) -> Any:
            return argparse.Namespace(sample=self.sign * noise + 0.1)

    reader = Reader(FP32)
    assert single._asked(Echo(1.0), reader) == "epsilon"
    assert single._asked(Echo(-0.1), reader) == "v_prediction"


# --- what is refused ---------------------------------------------------------------------


def test_without_a_vocabulary_the_error_says_what_to_run(
    archs: dict[str, Arch], tmp_path: Path
) -> None:
    entry = single_files.write(tmp_path / "m.safetensors", archs["sd1"])
    with pytest.raises(VocabularyMissing) as caught:
        loading.load(entry, FP32, [tmp_path], archs)
    assert "runai models get vocabulary" in caught.value.hint


@pytest.mark.parametrize("gone", ["time_embed", "first_stage_model.encoder", "layers.0.mlp"])
def test_a_checkpoint_with_tensors_missing_is_broken(
    base: Path, archs: dict[str, Arch], tmp_path: Path, gone: str
) -> None:
    kept = [{k: v for k, v in p.items() if gone not in k} for p in parts(archs["sd1"])]
    with pytest.raises(ModelBroken, match=r"v1/half.* are missing"):
        load_parts(tmp_path / "half.safetensors", kept, archs["sd1"], base)


def test_a_checkpoint_with_a_tensor_of_another_shape_is_broken(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    unet, *others = parts(archs["sd1"])
    unet["model.diffusion_model.time_embed.0.weight"] = torch.zeros(7, 8)
    with pytest.raises(ModelBroken, match=r"time_embedding.linear_1.weight is of shape \[7, 8\]"):
        load_parts(tmp_path / "odd.safetensors", [unet, *others], archs["sd1"], base)


# --- a VAE of its own --------------------------------------------------------------------


@pytest.mark.parametrize("naming", ["first_stage_model.", "", "diffusers", "old", "folder"])
def test_a_vae_is_read_from_wherever_it_lies_alone(
    archs: dict[str, Arch], tmp_path: Path, naming: str
) -> None:
    # of 32 groups, as all are: no tensor says how many
    config = {**tiny.VAE, "block_out_channels": [32, 32, 64, 64], "norm_num_groups": 32}
    vae = tiny.make_vae(config).half().float()
    path = tmp_path / "vae.safetensors"
    if naming == "folder":
        path = tmp_path / "vae"
        vae.save_pretrained(path)
    else:
        ldm.write_checkpoint(path, [vae_named(vae, naming)], {})
    entry = replace(single_files.entry_of(path, archs["sd1"]), name="VAE/vae", arch="")
    loaded = loading.load_vae(entry, FP32)
    assert isinstance(loaded, AutoencoderKL)
    assert list(loaded.config.block_out_channels) == [32, 32, 64, 64]
    for name, value in vae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def vae_named(vae: Any, naming: str) -> ldm.Weights:
    if naming in ("first_stage_model.", ""):
        original = ldm.vae_weights(vae).items()
        return {name.replace("first_stage_model.", naming): value for name, value in original}
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = vae.state_dict()
    if naming == "old":
        for new, before in old.items():
            state = {name.replace(new, before): value for name, value in state.items()}
    return dict(state)


def test_another_vae_keeps_the_scaling_of_the_model_it_is_used_with(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    model = loading.load(
        single_files.write(tmp_path / "m.safetensors", archs["sdxl"]), FP32, [base], archs
    )
    vae = tiny.make_vae(tiny.VAE)
    other = loading.with_vae(model, vae)
    assert other.vae.config.scaling_factor == 0.13025
    assert vae.config.scaling_factor == 0.18215
    assert other.vae.decoder is vae.decoder
    assert model.vae is not other.vae


def test_a_vae_that_makes_latents_of_another_size_is_refused(
    base: Path, archs: dict[str, Arch], tmp_path: Path
) -> None:
    """The upscaler's, say, which halves a side twice where the others do so three times."""
    model = loading.load(
        single_files.write(tmp_path / "m.safetensors", archs["sd1"]), FP32, [base], archs
    )
    with pytest.raises(ModelUnsupported, match="does not fit") as caught:
        loading.with_vae(model, tiny.make_vae(tiny.VAE_X4))
    assert caught.value.field == "vae"


def test_what_is_no_vae_is_refused_as_one(archs: dict[str, Arch], tmp_path: Path) -> None:
    path = ldm.write_checkpoint(tmp_path / "x.safetensors", [{"a": torch.zeros(2)}], {})
    with pytest.raises(ModelBroken, match=r"x\.safetensors is not a VAE"):
        loading.load_vae(single_files.entry_of(path, archs["sd1"]), FP32)
