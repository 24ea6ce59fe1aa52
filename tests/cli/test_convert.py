"""`runai models convert`: the command; what it does with the bits is tested in tests/engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from runai.cli import main

TENSORS = {"lora_unet_a.lora_up.weight": torch.randn(4, 2), "alpha": torch.tensor(2.0)}
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "Lora"
    folder.mkdir(parents=True)
    torch.save(TENSORS, folder / "style.ckpt")
    return tmp_path / "models"


def convert(base: Path, *words: str | Path) -> int:
    return main(["models", "convert", *map(str, words), "--model-base-path", str(base)])


def test_a_model_is_converted_and_the_target_told(
    base: Path, tmp_path: Path, capsys: Capture
) -> None:
    target = tmp_path / "style.safetensors"
    assert convert(base, base / "Lora" / "style.ckpt", target) == 0
    assert capsys.readouterr().out == f"{target}\n"
    found = load_file(target)
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items())


def test_a_source_is_looked_for_below_the_base_path_too(base: Path, tmp_path: Path) -> None:
    assert convert(base, "Lora/style.ckpt", tmp_path / "style.safetensors") == 0


def test_a_target_that_is_there_is_replaced_only_by_force(
    base: Path, tmp_path: Path, capsys: Capture
) -> None:
    target = tmp_path / "style.safetensors"
    save_file({"mine": torch.zeros(1)}, target)
    assert convert(base, "Lora/style.ckpt", target) == 2
    assert "--force" in capsys.readouterr().err and list(load_file(target)) == ["mine"]
    assert convert(base, "Lora/style.ckpt", target, "--force") == 0
    assert list(load_file(target)) != ["mine"]


def test_what_is_no_model_cannot_become_a_folder(
    base: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert convert(base, "Lora/style.ckpt", tmp_path / "style") == 1
    said = capsys.readouterr().err
    assert "style.ckpt is no whole model" in said and len(said.splitlines()) == 1
    assert not (tmp_path / "style").exists()


def test_a_folder_of_other_sizes_says_why_it_cannot_be_a_file(
    base: Path, tmp_path: Path, capsys: Capture
) -> None:
    example = Path(__file__).parents[2] / "models.example" / "v1" / "shapes"
    assert convert(base, example, tmp_path / "shapes.safetensors") == 1
    assert "other sizes than the published one" in capsys.readouterr().err
