"""A file's kind is read off its header; what is no model is told with the reason."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import headers
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runai.engine import detection
from runai.engine.archs import ARCHS
from runai.engine.detection.tensors import identify_tensors
from runai.errors import ModelBroken, ModelError

CHECKPOINTS = [name for name in ARCHS if name != "sd2-v"]
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


def found(name: str, metadata: dict[str, str] | None = None) -> detection.Finding:
    shapes = {key: shape for key, (_, shape) in headers.rows(name).items()}
    return identify_tensors(shapes, metadata or {})


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_architecture_is_told_from_its_header(tmp_path: Path, name: str) -> None:
    path = headers.write(tmp_path / "m.safetensors", headers.rows(name))
    finding = detection.identify(path)
    assert (finding.kind, finding.arch, finding.reason) == ("model", name, "")


@pytest.mark.parametrize("arch", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("form", ["lora", "peft", "loha"])
def test_a_lora_is_told_with_the_arch_it_is_for(form: str, arch: str) -> None:
    finding = found(f"{form}-{arch}")
    assert (finding.kind, finding.arch) == ("lora", arch)


def test_a_lora_for_velocity_is_known_by_its_metadata() -> None:
    assert found("lora-sd2", {"ss_base_model_version": "sd_v2_v"}).arch == "sd2-v"
    assert found("lora-sd1", {"ss_base_model_version": "sdxl_base_v1-0"}).arch == "sd1"


@pytest.mark.parametrize(
    ("rows", "arch"),
    [
        ({"lora_te_text_model_x_self_attn_q_proj.lora_down.weight": [4, 768]}, "sd1"),
        ({"lora_te_text_model_x_self_attn_q_proj.lora_down.weight": [4, 1024]}, "sd2"),
        ({"lora_te2_text_model_x_mlp_fc1.lora_down.weight": [4, 1280]}, "sdxl"),
        ({"lora_unet_x_transformer_blocks_1_attn1_to_q.lora_down.weight": [4, 640]}, "sdxl"),
        ({"a_attn2_to_k.lokr_w1": [8, 16], "a_attn2_to_k.lokr_w2": [40, 48]}, "sd1"),
        ({"a_attn2_to_k.lokr_w1": [8, 16], "a_attn2_to_k.lokr_w2_b": [4, 64]}, "sd2"),
        ({"anything.lora_down.weight": [4, 320]}, ""),
    ],
)
def test_a_lora_of_few_layers_tells_what_it_can(rows: dict[str, list[int]], arch: str) -> None:
    finding = identify_tensors(rows, {})
    assert (finding.kind, finding.arch) == ("lora", arch)


@pytest.mark.parametrize(
    ("rows", "arch"),
    [
        ({"emb_params": [4, 768]}, "sd1"),
        ({"emb_params": [1, 1024]}, "sd2"),
        ({"emb_params": [2, 96]}, ""),
        ({"<cat>": [768]}, "sd1"),
        ({"<cat>": [1024], "<cat>_1": [1024]}, None),
        ({"clip_l": [2, 768], "clip_g": [2, 1280]}, "sdxl"),
        ({"other": [3, 768]}, "sd1"),
        ({"other": [3, 77]}, None),
        ({"emb_params": []}, None),
    ],
)
def test_an_embedding_is_told_with_the_width_it_is_for(
    rows: dict[str, list[int]], arch: str | None
) -> None:
    finding = identify_tensors(rows, {})
    assert (finding.kind, finding.arch) == (("embedding", arch) if arch is not None else (None, ""))


def test_a_vae_is_told_and_its_version_where_somebody_says_it() -> None:
    assert (found("vae").kind, found("vae").arch) == ("vae", "")
    said = {"modelspec.architecture": "stable-diffusion-xl-v1-base/vae"}
    assert found("vae", said).arch == "sdxl"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({"control_model.zero_convs.0.0.weight": [1]}, "a ControlNet"),
        ({"conv_first.weight": [64, 3, 3, 3]}, "an ESRGAN upscaler"),
        ({"decoder.conv_in.weight": [512, 16, 3, 3]}, "a VAE of 16 channels"),
        ({"decoder.conv_in.weight": [512, 4, 3, 3]}, "half a VAE"),
        ({"text_model.encoder.layers.0.mlp.fc1.weight": [1]}, "a CLIP text encoder alone"),
        ({"double_blocks.0.img_attn.qkv.weight": [1]}, "it is Flux"),
        ({"lora_unet_double_blocks_0.lora_down.weight": [4, 8]}, "a LoRA for Flux"),
        ({"anything": [1]}, "holds nothing that is known"),
        ({}, "holds nothing that is known"),
        ({FIRST: [320, 4, 3, 3]}, "not of the Stable Diffusion family"),
        ({FIRST: []}, "not of the Stable Diffusion family"),
    ],
)
def test_what_is_no_model_is_told_with_the_reason(rows: dict[str, list[int]], reason: str) -> None:
    finding = identify_tensors(rows, {})
    assert finding.kind is None and finding.fault == "foreign"
    assert reason in finding.reason
    assert reason in finding.error("x").message


@pytest.mark.parametrize(
    ("name", "reason"), [("unet", "a UNet alone"), ("controlnet", "a ControlNet")]
)
def test_parts_of_models_are_no_models(name: str, reason: str) -> None:
    assert reason in found(name).reason


def mutated(name: str, without: str = "", **shapes: list[int]) -> detection.Finding:
    rows = {k: s for k, (_, s) in headers.rows(name).items() if not (without and without in k)}
    changed = {k.replace("__", "."): s for k, s in shapes.items()}
    return identify_tensors({**rows, **changed}, {})


@pytest.mark.parametrize(
    ("without", "reason"),
    [
        ("cond_stage_model.", "its text encoder is missing"),
        ("input_blocks.5.1.", "660 of the 686 tensors of its UNet"),
        ("attn2.to_k", "not of the Stable Diffusion family"),
    ],
)
def test_a_checkpoint_from_which_something_is_missing_says_what(without: str, reason: str) -> None:
    finding = mutated("sd1", without)
    assert finding.kind is None
    assert reason in finding.reason


def test_a_checkpoint_of_unheard_of_shapes_is_none_of_ours() -> None:
    finding = mutated("sd1", **{FIRST.replace(".", "__"): [320, 6, 3, 3]})
    assert "6 channels and text of width 768" in finding.reason


def test_a_checkpoint_without_its_own_vae_is_still_a_model() -> None:
    assert mutated("sd1", "first_stage_model.").arch == "sd1"


# --- what it predicts ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "arch", "prediction"),
    [
        ({"modelspec.prediction_type": "v"}, "sd2-v", "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, "sd2", "epsilon"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, "sd2-v", "v_prediction"),
        ({"modelspec.prediction_type": "x"}, "sd2", None),
        ({}, "sd2", None),
    ],
)
def test_what_sd2_predicts_is_told_by_metadata_or_stays_open(
    metadata: dict[str, str], arch: str, prediction: str | None
) -> None:
    finding = found("sd2", metadata)
    assert (finding.arch, finding.prediction) == (arch, prediction)


@pytest.mark.parametrize(
    ("steps", "arch"), [(875000, "sd2"), (110000, "sd2-v"), (7, "sd2"), ("x", "sd2")]
)
def test_the_published_sd2_files_are_known_by_their_training_steps(
    steps: object, arch: str
) -> None:
    shapes = {key: shape for key, (_, shape) in headers.rows("sd2").items()}
    finding = identify_tensors(shapes, {}, {"global_step": steps})
    assert finding.arch == arch
    assert (finding.prediction is None) == (steps in (7, "x"))


def test_marker_tensors_tell_velocity_and_zero_snr() -> None:
    finding = mutated("sdxl", v_pred=[], ztsnr=[])
    assert (finding.arch, finding.prediction, finding.zero_snr) == ("sdxl", "v_prediction", True)
    assert found("sdxl").prediction == "epsilon"
    assert found("upscale-x4").prediction == "v_prediction"


# --- few steps ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "distillation"),
    [
        ("sd_xl_turbo_1.0_fp16", "turbo"),
        ("dreamshaperXL_v21TurboDPMSDE", "turbo"),
        ("sdxl_lightning_4step", "lightning"),
        ("juggernautXL_Rdphoto2Lightning_4S", "lightning"),
        ("LCM_Dreamshaper_v7", "lcm"),
        ("Hyper-SDXL-8steps", "hyper"),
        ("hyperrealism", None),
        ("welcome", None),
        ("turbocharged", None),
    ],
)
def test_few_steps_are_told_by_the_name_when_nothing_else_does(
    tmp_path: Path, name: str, distillation: str | None
) -> None:
    path = headers.write(tmp_path / f"{name}.safetensors", headers.rows("sd1"))
    assert detection.identify(path).distillation == distillation


def test_few_steps_are_told_by_the_network_and_the_metadata() -> None:
    cond = {"model__diffusion_model__time_embed__cond_proj__weight": [320, 256]}
    assert mutated("sd1", **cond).distillation == "lcm"
    assert found("sdxl", {"modelspec.title": "My Lightning model"}).distillation == "lightning"


# --- metadata ----------------------------------------------------------------------------


def test_trigger_words_are_the_stated_ones_and_the_most_frequent_tags() -> None:
    said = {
        "modelspec.trigger_phrase": "outline style, ink",
        "ss_tag_frequency": '{"1_a": {"cat": 3, "ink": 9}, "1_b": {"cat": 4, "dog": 1}}',
    }
    assert found("lora-sd1", said).trigger_words == ("outline style", "ink", "cat", "dog")


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"b": "c"}}', "[" * 100_000])
def test_damaged_tag_counts_are_no_trigger_words(text: str) -> None:
    assert found("lora-sd1", {"ss_tag_frequency": text}).trigger_words == ()


def test_metadata_is_shortened_to_what_is_worth_showing() -> None:
    said = {"modelspec.title": "a\n b" * 200, "ss_dataset": "x" * 9999, "ss_steps": "None"}
    shown = found("lora-sd1", said).metadata
    assert list(shown) == ["modelspec.title"]
    assert len(shown["modelspec.title"]) == 200 and "\n" not in shown["modelspec.title"]


# --- files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"0123456789", "not a model file"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (struct.pack("<Q", 2**60) + b"{}", "cut short"),
        (struct.pack("<Q", 4) + b"{ope", "damaged"),
        (struct.pack("<Q", 9) + b'{"a": {}}', "damaged"),
        (struct.pack("<Q", 2) + b"{}", "holds nothing that is known"),
        (struct.pack("<Q", 33) + b'{"a":{"shape":5,"data_offsets":0}}', "damaged"),
    ],
)
def test_garbage_is_told_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    finding = detection.identify(path)
    assert finding.kind is None
    assert reason in finding.reason


def test_a_file_that_is_cut_short_is_broken(tmp_path: Path) -> None:
    path = headers.write(tmp_path / "m.safetensors", headers.rows("sd1"))
    os.truncate(path, path.stat().st_size - 1)
    finding = detection.identify(path)
    assert finding.fault == "broken" and "cut short" in finding.reason
    with pytest.raises(ModelBroken, match="cut short"):
        detection.read_header(path)
    with pytest.raises(ModelBroken, match="x cannot be used"):
        raise finding.error("x")


def test_what_is_no_file_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        reasons = {p.name: detection.identify(p).reason for p in tmp_path.iterdir()}
    assert set(reasons) == {"pipe", "folder", "nowhere", "loop", "socket"}
    assert all(reasons.values())


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(["", "length", "zip", "pickle"]))
def test_no_bytes_break_it(tmp_path: Path, content: bytes, start: str) -> None:
    starts = {
        "length": struct.pack("<Q", len(content)) + b"{",
        "zip": b"PK\x03\x04",
        "pickle": b"\x80\x02",
    }
    path = tmp_path / "m.ckpt"
    path.write_bytes(starts.get(start, b"") + content)
    finding = detection.identify(path)
    assert finding.kind is None and finding.reason
    assert isinstance(finding.error("x"), ModelError)


SHAPES = st.lists(st.integers(0, 4000), max_size=5)


@settings(max_examples=200)
@given(st.data())
def test_no_header_breaks_it(data: st.DataObject) -> None:
    rows = headers.rows(data.draw(st.sampled_from(headers.names())))
    shapes = {key: shape for key, (_, shape) in rows.items()}
    for key in data.draw(st.lists(st.sampled_from(sorted(shapes)), max_size=3)):
        shapes[key] = data.draw(SHAPES)
    kept = data.draw(st.integers(0, len(shapes)))
    finding = identify_tensors(dict(list(shapes.items())[:kept]), {})
    assert (finding.kind is None) == bool(finding.reason)


def seconds(action: Callable[[], object]) -> float:
    """The least of several runs, of this thread alone: the machine may be busy."""
    took = []
    for _ in range(9):
        start = time.thread_time()
        assert action()
        took.append(time.thread_time() - start)
    return min(took)


@pytest.mark.parametrize("name", ["sdxl", "lora-sdxl", "sd1"])
def test_a_look_costs_little_more_than_parsing_the_header(tmp_path: Path, name: str) -> None:
    path = headers.write(tmp_path / "m.safetensors", headers.rows(name))
    with path.open("rb") as file:
        raw = file.read(struct.unpack("<Q", file.read(8))[0])
    # about as long on a quiet machine (benchmarks/catalogue.py): a slip of the order is noticed
    assert seconds(lambda: detection.identify(path).kind) < 10 * seconds(lambda: json.loads(raw))


def test_looking_imports_no_torch(tmp_path: Path) -> None:
    path = headers.write(tmp_path / "m.safetensors", headers.rows("sd1"))
    program = (
        "import sys, pathlib; from runai.engine import detection\n"
        "assert detection.identify(pathlib.Path(sys.argv[1])).arch == 'sd1'\n"
        "assert not {'torch', 'diffusers', 'safetensors'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], timeout=30, check=True)
