"""`runai models convert`: the command; what it does with the bits is tested in tests/engine."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from runai.cli import main, wiring
from runai.engine.archs import ARCHS
from runai.engine.loading import names, networks
from runai.settings import load
from runai.testing.scripted import ScriptedEngine
from tests.transports.clients import RawClient

TENSORS = {"lora_unet_a.lora_up.weight": torch.randn(4, 2), "alpha": torch.tensor(2.0)}
PATIENCE_S = 60.0
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


def test_a_source_is_looked_for_below_every_base_path(base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bases = f"{tmp_path / 'empty'}{os.pathsep}{base}"
    words = ["Lora/style.ckpt", str(tmp_path / "style.safetensors"), "--model-base-path", bases]
    assert main(["models", "convert", *words]) == 0


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


def checkpoint(base: Path) -> Path:
    """A file with the names of a checkpoint of Stable Diffusion 1; its tensors are numbers."""
    arch, [text] = ARCHS["sd1"], ARCHS["sd1"].texts
    shapes = {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    }
    parts = (
        (networks.empty_unet(arch.unet), names.unet(arch.unet)),
        (networks.empty_vae(arch.vae), names.vae(arch.vae)),
        (
            networks.empty_text_encoder(text.config, pooled=False),
            names.clip(f"{text.prefix}text_model."),
        ),
    )
    found = [layout(name).name for network, layout in parts for name in network.state_dict()]
    tensors = {name: torch.randn(shapes.get(name, (1,))).half() for name in found}
    path = base / "v1" / "mine.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": tensors}, path)
    return path


def test_to_makes_another_form_beside_the_model(base: Path, capsys: Capture) -> None:
    source = checkpoint(base)
    assert convert(base, "v1/mine", "--to", "safetensors") == 0
    made = source.with_suffix(".safetensors")
    assert capsys.readouterr().out == f"{made}\n"
    wanted = torch.load(source, weights_only=True)["state_dict"]
    assert all(torch.equal(value, wanted[name]) for name, value in load_file(made).items())


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "none"])
def test_to_knows_only_what_lies_below_the_base_path(
    base: Path, tmp_path: Path, capsys: Capture, name: str
) -> None:
    checkpoint(base)
    torch.save(TENSORS, tmp_path / "outside.ckpt")
    assert convert(base, name, "--to", "safetensors") == 1
    assert "[model_not_found]" in capsys.readouterr().err
    assert not (tmp_path / "outside.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v1/shapes", "other sizes than the published one"),
        ("lora/outline", "lora/outline is a LoRA: only models"),
        ("embeddings/nightstar", "embeddings/nightstar is an embedding: only models"),
    ],
)
def test_to_says_why_what_comes_along_cannot_become_another_form(
    base: Path, capsys: Capture, name: str, said: str
) -> None:
    assert convert(base, name, "--to", "ckpt") == 1
    printed = capsys.readouterr().err
    assert said in printed and "[model_unsupported]" in printed
    example = wiring.example_path()
    assert example is not None and not list(example.rglob("*.ckpt"))


@pytest.mark.parametrize("words", [["v1/mine"], ["v1/mine", "a.ckpt", "--to", "ckpt"]])
def test_where_to_is_said_once(base: Path, words: list[str]) -> None:
    assert convert(base, *words) == 2


def test_the_plugin_converts_through_a_server_that_allows_it(
    base: Path, running: Callable[..., Any]
) -> None:
    source = checkpoint(base)
    settings = load({"model_base_path": str(base)}, {})
    command = functools.partial(wiring.conversion, settings)
    options = {
        "convert_model": f"{base}/v1/mine.ckpt",
        "convert_model_output_type": "safetensors",
        "model_base_path": str(base),
    }
    with running(ScriptedEngine(), conversion=command) as port, RawClient(port) as client:
        client.sock.settimeout(PATIENCE_S)  # a child imports torch
        client.send({"action": "convert", "options": options})
        said = [client.receive() for _ in range(2)][-1]
        assert said is not None and said["type"] == "converted"
        assert said["path"] == str(source.with_suffix(".safetensors"))
        client.send({"action": "convert", "options": options})
        again = client.receive()
        assert again is not None and again["type"] == "failed"
        assert "is there already" in again["error"]["message"], "nothing is overwritten"


def test_a_server_that_was_not_told_to_convert_refuses(running: Callable[..., Any]) -> None:
    with running(ScriptedEngine()) as port, RawClient(port) as client:
        client.send({"type": "convert", "id": "c", "model": "shapes", "form": "ckpt"})
        said = [client.receive() for _ in range(2)][-1]
        assert said is not None and said["error"]["code"] == "not_offered"
        assert "--allow-convert" in said["error"]["hint"]
