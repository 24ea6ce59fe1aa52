"""A conversion does not change what is drawn, or it is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ldm
import pytest
import single_files
import tiny
import torch
from safetensors.torch import load_file, save_file

from runai.engine import conversion, detection, loading
from runai.engine.archs import Arch
from runai.engine.catalogue import Entry
from runai.engine.devices import choose
from runai.errors import ModelUnsupported

FP32 = choose("cpu", "fp32")
MARKS = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path; `sd1` puts a tiny vocabulary into it."""
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def sd1(base: Path) -> Arch:
    """Tiny, but of the published width of text, by which a file is known."""
    tokens = single_files.write_vocabulary(base)
    arch = single_files.tiny_arch("sd1", tokens)
    texts = (replace(arch.texts[0], config=tiny.make_text_encoder(tokens, 768).config.to_dict()),)
    return replace(arch, texts=texts, unet={**arch.unet, "cross_attention_dim": 768})


def write(path: Path, arch: Arch, said: dict[str, str] | None = None, **more: Any) -> Path:
    parts = single_files.parts_of(arch, single_files.make_networks(arch))
    return ldm.write_checkpoint(path, [*parts, more], said or {})


def convert(source: Path, target: Path, arch: Arch, base: Path) -> Path:
    conversion.plan(source, target, [base], archs={"sd1": arch}).write()
    return target


def found(path: Path) -> dict[str, Any]:
    """What says how a model is drawn with."""
    look = detection.identify_folder if path.is_dir() else detection.identify
    finding = look(path)
    rows = ("kind", "arch", "prediction", "zero_snr", "distillation")
    return {name: getattr(finding, name) for name in rows}


def load(path: Path, arch: Arch, base: Path) -> Any:
    format_: Any = "diffusers" if path.is_dir() else "safetensors"
    entry = Entry(path.name, "v1", format_, path)
    return loading.load(entry, FP32, [base], {"sd1": arch})


def assert_drawn_alike(one: Any, other: Any) -> None:
    assert one.defaults == other.defaults
    assert one.guidance_width == other.guidance_width
    for name in ("prediction_type", "rescale_betas_zero_snr", "timestep_spacing", "beta_end"):
        unsaid = {"rescale_betas_zero_snr": False, "timestep_spacing": "leading"}.get(name)
        assert one.scheduler.get(name, unsaid) == other.scheduler.get(name, unsaid), name
    ours, theirs = one.unet.state_dict(), other.unet.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


SPECIAL: dict[str, Any] = {
    "noise": {"more": MARKS},
    "velocity": {"more": {"v_pred": torch.zeros(0)}},
    "by-metadata": {"said": {"modelspec.prediction_type": "v", "ss_zero_terminal_snr": "True"}},
    "of_lcm": {"told": 8},
    "some_turbo": {},
    "some_lightning": {},
    "by-title_hyper": {"said": {"modelspec.title": "Hyper"}},
    "plain": {},
}


@pytest.mark.parametrize("name", SPECIAL)
def test_what_is_special_about_a_model_goes_through_every_form(
    name: str, sd1: Arch, base: Path, tmp_path: Path
) -> None:
    special = SPECIAL[name]
    arch = replace(sd1, unet={**sd1.unet, "time_cond_proj_dim": special.get("told")})
    source = write(
        tmp_path / f"{name}.safetensors", arch, special.get("said"), **special.get("more", {})
    )
    folder = convert(source, tmp_path / name, sd1, base)
    (tmp_path / "again").mkdir()
    ckpt = convert(source, tmp_path / "again" / f"{name}.ckpt", sd1, base)
    again = convert(folder, tmp_path / "again" / f"{name}.safetensors", sd1, base)
    folder_of_ckpt = convert(ckpt, tmp_path / "again" / name, sd1, base)
    forms = (folder, ckpt, again, folder_of_ckpt)
    assert [found(form) for form in forms] == [found(source)] * 4
    first = load(source, sd1, base)
    for form in forms:
        assert_drawn_alike(first, load(form, sd1, base))


def test_few_steps_that_no_name_tells_stay_in_metadata(
    sd1: Arch, base: Path, tmp_path: Path
) -> None:
    said = {"modelspec.tags": "photo, lightning"}
    source = write(tmp_path / "a.safetensors", sd1, said)
    for target in ("b.ckpt", "b"):
        with pytest.raises(ModelUnsupported, match="could not say so") as caught:
            convert(source, tmp_path / target, sd1, base)
        assert "hold lightning" in caught.value.hint
    folder = convert(source, tmp_path / "b-lightning", sd1, base)
    again = convert(folder, tmp_path / "c.safetensors", sd1, base)
    assert found(again)["distillation"] == "lightning"


def test_a_name_that_promises_few_steps_is_refused(sd1: Arch, base: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", sd1)
    for target in ("a-turbo.ckpt", "a-turbo"):
        with pytest.raises(ModelUnsupported, match="few steps") as caught:
            convert(source, tmp_path / target, sd1, base)
        assert "without turbo" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta_end", 0.02),
        ("beta_schedule", "linear"),
        ("timestep_spacing", "trailing"),
        ("num_train_timesteps", 500),
    ],
)
def test_a_folder_with_a_schedule_of_its_own_is_refused(
    sd1: Arch, base: Path, tmp_path: Path, name: str, value: Any
) -> None:
    folder = convert(write(tmp_path / "a.safetensors", sd1), tmp_path / "b", sd1, base)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(ModelUnsupported, match=name):
        convert(folder, tmp_path / "c.safetensors", sd1, base)


def test_a_lora_whose_metadata_says_how_strong_it_is_does_not_become_a_ckpt(
    tmp_path: Path,
) -> None:
    tensors = {"unet.a.lora_A.weight": torch.ones(2, 3), "unet.a.lora_B.weight": torch.ones(3, 2)}
    said = {"lora_adapter_metadata": '{"unet.lora_alpha": 8}'}
    save_file(tensors, tmp_path / "a.safetensors", said)
    with pytest.raises(ModelUnsupported, match="strength"):
        conversion.plan(tmp_path / "a.safetensors", tmp_path / "b.ckpt")
    save_file(tensors, tmp_path / "plain.safetensors")
    conversion.plan(tmp_path / "plain.safetensors", tmp_path / "b.ckpt").write()


def test_marks_are_not_counted_among_what_is_left_out(
    sd1: Arch, base: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "a.safetensors", sd1, None, **MARKS, other=torch.ones(1))
    planned = conversion.plan(source, tmp_path / "b", [base], archs={"sd1": sd1})
    assert [name for name in planned.dropped if "model" not in name] == ["other"]
    assert "v_pred" in load_file(source)
