"""A diffusers folder is told from its configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runai.engine.archs import ARCHS
from runai.engine.detection import Finding, identify_folder

ROOT = Path(__file__).parents[2]
TINY = {"in_channels": 4, "cross_attention_dim": 16}
CLASSES = {
    "sd1-inpaint": "StableDiffusionInpaintPipeline",
    "sd1-edit": "StableDiffusionInstructPix2PixPipeline",
    "sd2-depth": "StableDiffusionDepth2ImgPipeline",
    "upscale-x4": "StableDiffusionUpscalePipeline",
    "sdxl": "StableDiffusionXLPipeline",
}


def write(
    path: Path,
    unet: dict[str, Any],
    scheduler: dict[str, Any] | None = None,
    kind: str = "StableDiffusionPipeline",
    texts: tuple[str, ...] = ("text_encoder",),
) -> Path:
    index = {"_class_name": kind, **{name: ["transformers", "CLIPTextModel"] for name in texts}}
    for name, content in (
        ("model_index.json", index),
        ("unet/config.json", unet),
        ("scheduler/scheduler_config.json", scheduler or {}),
    ):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", ARCHS)
def test_every_architecture_is_told_from_its_folder(tmp_path: Path, name: str) -> None:
    arch = ARCHS[name]
    texts = ("text_encoder", "text_encoder_2") if arch.version == "xl" else ("text_encoder",)
    if arch.added == "aesthetic":
        texts = ("text_encoder_2",)
    kind = CLASSES.get(name, "StableDiffusionPipeline")
    path = write(tmp_path / "m", arch.unet, arch.scheduler, kind, texts)
    finding = identify_folder(path)
    assert (finding.kind, finding.arch, finding.reason) == ("model", name, "")
    assert finding.prediction == arch.scheduler["prediction_type"]
    assert finding.format == "diffusers"


@pytest.mark.parametrize(("folder", "arch"), [("v1/shapes", "sd1"), ("v2/shapes-v", "sd2-v")])
def test_the_example_models_are_told(folder: str, arch: str) -> None:
    assert identify_folder(ROOT / "models.example" / folder, "v1").arch == arch


@pytest.mark.parametrize(
    ("unet", "scheduler", "version", "arch"),
    [
        (TINY, {}, "v1", "sd1"),
        (TINY, {}, "v2", "sd2"),
        (TINY, {}, None, "sd1"),
        (TINY, {"prediction_type": "v_prediction"}, "v1", "sd2-v"),
        ({**TINY, "use_linear_projection": True}, {}, "v1", "sd2"),
        ({**TINY, "cross_attention_dim": 768}, {"prediction_type": "v_prediction"}, "v2", "sd1"),
        ({**TINY, "addition_embed_type": "text_time"}, {}, "v1", "sdxl"),
        ({**TINY, "in_channels": 9}, {}, "v2", "sd2-inpaint"),
        ({**TINY, "in_channels": 7, "num_class_embeds": 9}, {}, "v1", "upscale-x4"),
    ],
)
def test_a_tiny_model_is_told_by_what_speaks_for_a_version_else_by_where_it_lies(
    tmp_path: Path, unet: dict[str, Any], scheduler: dict[str, Any], version: Any, arch: str
) -> None:
    assert identify_folder(write(tmp_path / "m", unet, scheduler), version).arch == arch


@pytest.mark.parametrize(
    ("unet", "scheduler", "name", "distillation"),
    [
        ({}, {"_class_name": "LCMScheduler"}, "m", "lcm"),
        ({"time_cond_proj_dim": 256}, {}, "m", "lcm"),
        (
            {},
            {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
            "m",
            "turbo",
        ),
        (
            {},
            {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
            "sdxl-lightning",
            "lightning",
        ),
        ({}, {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, "m", None),
        ({}, {}, "m", None),
    ],
)
def test_few_steps_are_told_by_the_configurations(
    tmp_path: Path, unet: dict[str, Any], scheduler: dict[str, Any], name: str, distillation: str
) -> None:
    path = write(tmp_path / name, {**ARCHS["sdxl"].unet, **unet}, scheduler)
    assert identify_folder(path).distillation == distillation


def of(path: Path, **more: Any) -> Finding:
    return identify_folder(write(path, {**TINY, **more.pop("unet", {})}, **more))


def test_what_cannot_be_drawn_with_is_told_with_the_reason(tmp_path: Path) -> None:
    reasons = {
        of(tmp_path / "a", kind="FluxPipeline").reason: "FluxPipeline",
        of(tmp_path / "b", kind="StableDiffusion3Pipeline").reason: "StableDiffusion3Pipeline",
        of(tmp_path / "c", texts=()).reason: "no text encoder",
        of(tmp_path / "d", unet={"class_embed_type": "projection"}).reason: "class_embed_type",
        of(tmp_path / "e", unet={"in_channels": 6}).reason: "6 channels",
    }
    assert all(expected in reason for reason, expected in reasons.items())


@pytest.mark.parametrize("content", ["", "[]", "{", '{"in_channels": "x"}', "[" * 10_000])
@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json"])
def test_damaged_configurations_are_no_model(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path / "m", dict(ARCHS["sd1"].unet))
    (path / name).write_text(content)
    finding = identify_folder(path)
    assert finding.kind is None and finding.reason


@pytest.mark.parametrize("value", [None, -1, 0, "x", 1e999, True, [768], 4.0])
@pytest.mark.parametrize("key", ["in_channels", "cross_attention_dim"])
def test_a_network_of_no_size_is_no_model(tmp_path: Path, key: str, value: Any) -> None:
    finding = of(tmp_path / "m", unet={key: value})
    assert (finding.kind, finding.fault) == (None, "broken")
    assert key in finding.reason


def test_a_number_past_all_numbers_is_a_damaged_configuration(tmp_path: Path) -> None:
    xl = {**ARCHS["sdxl"].unet, "mid_block_type": "UNetMidBlock2D"}
    path = write(tmp_path / "m", {**xl, "transformer_layers_per_block": 1e999})
    assert identify_folder(path).fault == "broken"


def test_a_reason_shows_no_more_of_a_file_than_fits_on_a_line(tmp_path: Path) -> None:
    kind = "Flux\n\x1b[31m" + "x" * 900_000
    for number, path in enumerate((tmp_path / "a", tmp_path / "vae")):
        write(path, TINY, kind=kind)
        if number:
            (path / "model_index.json").rename(path / "config.json")
        reason = identify_folder(path).reason
        assert "Flux" in reason and reason.isprintable() and len(reason) <= 200


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m", dict(ARCHS["sd1"].unet))
    (path / "unet" / "config.json").unlink()
    assert "unet/config.json" in identify_folder(path).reason


@pytest.mark.parametrize(
    ("config", "kind", "arch"),
    [
        ({**ARCHS["sd1"].vae, "_class_name": "AutoencoderKL"}, "vae", ""),
        ({**ARCHS["sdxl"].vae, "_class_name": "AutoencoderKL"}, "vae", "sdxl"),
        ({**ARCHS["upscale-x4"].vae, "_class_name": "AutoencoderKL"}, "vae", "upscale-x4"),
        ({"_class_name": "AutoencoderTiny"}, "vae", ""),
        ({"_class_name": "AutoencoderTiny", "latent_channels": 16}, None, ""),
        ({"_class_name": "ControlNetModel"}, None, ""),
        ({"_class_name": "AutoencoderKL", "latent_channels": 16}, None, ""),
    ],
)
def test_a_vae_may_be_a_folder_of_its_own(
    tmp_path: Path, config: dict[str, Any], kind: str | None, arch: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    finding = identify_folder(tmp_path)
    assert (finding.kind, finding.arch) == (kind, arch)
