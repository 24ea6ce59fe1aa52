"""How much memory a model will take, from headers of real checkpoints without their weights."""

from __future__ import annotations

from pathlib import Path

import headers
import pytest
import tiny
import torch
from drawn import as_base64, make_request, photo

from runai.engine import footprint, loading
from runai.engine.archs import ARCHS
from runai.engine.catalogue import Entry
from runai.engine.devices import Place
from runai.engine.footprint import Footprint
from runai.engine.held import weigh

# millions of parameters, as published with the models
SIZES = {
    "sd1": (860, 84, [123]),
    "sd1-inpaint": (860, 84, [123]),
    "sd2": (866, 84, [340]),
    "sdxl": (2567, 84, [123, 695]),
    "ssd-1b": (1331, 84, [123, 695]),
    "segmind-vega": (745, 84, [123, 695]),
}


def of(tmp_path: Path, arch: str, name: str = "m.safetensors") -> Footprint:
    path = headers.write(tmp_path / name, headers.rows(arch))
    row = ARCHS[arch]
    return footprint.of(Entry("m", row.version, "safetensors", path, arch=arch))


@pytest.mark.parametrize("arch", SIZES)
def test_a_header_tells_how_many_weights_there_are(tmp_path: Path, arch: str) -> None:
    unet, vae, texts = SIZES[arch]
    known = of(tmp_path, arch)
    assert known.unet / 1e6 == pytest.approx(unet, rel=0.01)
    assert known.vae / 1e6 == pytest.approx(vae, rel=0.01)
    assert [count / 1e6 for count in known.texts] == pytest.approx(texts, rel=0.01)


def test_weights_are_counted_in_the_dtype_they_are_drawn_with(tmp_path: Path) -> None:
    known = of(tmp_path, "sd1")
    assert known.weights(4).total == 2 * known.weights(2).total


def test_the_size_of_a_picture_comes_from_the_request_or_the_model(tmp_path: Path) -> None:
    for arch, side in (("sd1", 512), ("sd2-v", 768), ("sdxl", 1024)):
        known = footprint.of(Entry("m", ARCHS[arch].version, "ckpt", tmp_path / "none", arch=arch))
        work = known.work(make_request(), 2, fp16=True)
        assert (work.width, work.height) == (side, side)
        wide = known.work(make_request(width=640), 2, fp16=True)
        assert (wide.width, wide.height) == (640, side)


def test_an_upscaled_picture_is_four_times_as_large(tmp_path: Path) -> None:
    known = of(tmp_path, "upscale-x4")
    request = make_request(task="upscale", image=as_base64(photo(96, 64)))
    work = known.work(request, 2, fp16=True)
    assert (work.width, work.height, work.scale) == (384, 256, 4)


@pytest.mark.parametrize(("arch", "rows"), [("sd1", 2), ("sd1-edit", 3), ("sdxl-edit", 3)])
def test_a_guided_picture_takes_two_rows_and_an_edited_one_three(
    tmp_path: Path, arch: str, rows: int
) -> None:
    known = of(tmp_path, arch)
    assert known.work(make_request(), 2, fp16=True).rows == rows
    assert known.work(make_request(guidance_scale=1.0), 2, fp16=True).rows == 1


def test_only_sdxls_vae_decodes_in_fp32_and_only_in_fp16(tmp_path: Path) -> None:
    known = of(tmp_path, "sdxl")
    assert known.work(make_request(), 2, fp16=True).vae_element == 4
    assert known.work(make_request(), 2, fp16=False).vae_element == 2
    assert of(tmp_path, "sd1").work(make_request(), 2, fp16=True).vae_element == 2


@pytest.mark.parametrize("nested", [True, False])
def test_of_a_ckpt_the_weights_count_and_not_their_format_nor_averages_of_them(
    tmp_path: Path, nested: bool
) -> None:
    weights = {
        "model.diffusion_model.a": torch.zeros(30, 10),
        "model_ema.diffusion_modela": torch.zeros(30, 10),
        "first_stage_model.b": torch.zeros(20, dtype=torch.float64),
        "cond_stage_model.transformer.c": torch.zeros(10, dtype=torch.float16),
    }
    torch.save({"state_dict": weights, "epoch": 1} if nested else weights, tmp_path / "m.ckpt")
    known = footprint.of(Entry("m", "v1", "ckpt", tmp_path / "m.ckpt"))
    assert (known.unet, known.vae, known.texts) == (300, 20, (10,))
    assert known.unet_width == 320


@pytest.mark.parametrize(
    ("distillation", "told", "asked", "rows"),
    [
        (None, False, None, 2),
        ("turbo", False, None, 1),
        ("lcm", False, None, 1),
        ("turbo", False, 5.0, 2),
        ("lcm", True, None, 1),
        ("lcm", True, 8.0, 1),
        (None, True, 8.0, 1),
    ],
)
@pytest.mark.parametrize("folder", [True, False])
def test_a_picture_without_guidance_takes_one_row_whoever_decided_that(
    tmp_path: Path,
    distillation: str | None,
    told: bool,
    asked: float | None,
    rows: int,
    folder: bool,
) -> None:
    if folder:
        path = tiny.write_model(tmp_path / "m", "sd1-lcm" if told else "sd1")
    else:
        cond = {"model.diffusion_model.time_embed.cond_proj.weight": ["F16", [320, 256]]}
        path = headers.write(
            tmp_path / "m.safetensors", {**headers.rows("sd1"), **(cond if told else {})}
        )
    kind = "diffusers" if folder else "safetensors"
    known = footprint.of(Entry("m", "v1", kind, path, arch="sd1", distillation=distillation))
    assert known.work(make_request(guidance_scale=asked), 2, fp16=True).rows == rows


def test_a_checkpoint_without_a_vae_is_drawn_with_one_beside_it(tmp_path: Path) -> None:
    whole = headers.rows("sd1")
    without = {name: row for name, row in whole.items() if not name.startswith("first_stage_")}
    path = headers.write(tmp_path / "m.safetensors", without)
    known = footprint.of(Entry("m", "v1", "safetensors", path, arch="sd1"))
    assert known.vae == of(tmp_path, "sd1", "whole.safetensors").vae > 80_000_000


def test_a_depth_estimator_counts(tmp_path: Path) -> None:
    path = tiny.write_model(tmp_path / "m", "sd2-depth")
    model = loading.load(
        Entry("m", "v2", "diffusers", path, arch="sd2-depth"),
        Place(torch.device("cpu"), torch.float32),
        [tmp_path],
    )
    known = footprint.of(Entry("m", "v2", "diffusers", path, arch="sd2-depth"))
    assert len(known.texts) == 2
    assert known.weights(4).total == pytest.approx(weigh(model).total, rel=0.03)


def test_one_set_of_weights_of_a_folder_counts(tmp_path: Path) -> None:
    rows = headers.rows("vae")
    for name in ("w.safetensors", "w.fp16.safetensors"):
        headers.write(tmp_path / name, rows)
    torch.save({"w": torch.zeros(5)}, tmp_path / "w.bin")
    alone = headers.write(tmp_path / "alone" / "vae.safetensors", rows)
    one = footprint.of_vae(Entry("v", "v1", "safetensors", alone, kind="vae"))
    assert one > 80_000_000
    assert footprint.of_vae(Entry("v", "v1", "diffusers", tmp_path, kind="vae")) == one


def test_what_cannot_be_read_is_taken_for_a_common_size(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"garbage")
    known = footprint.of(Entry("m", "v1", "safetensors", path))
    assert 2.0e9 < known.weights(2).total < 2.3e9
    assert footprint.of_vae(Entry("m", "v1", "safetensors", path, kind="vae")) == 0
