"""`runai models` and `runai status`, with and without a server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import headers
import pytest

from runai.cli import main, wiring
from runai.testing.scripted import ScriptedEngine

Capture = pytest.CaptureFixture[str]


def base_path(root: Path) -> Path:
    """A model folder: files with the headers of models, and one that is none."""
    base = root / "models"
    headers.write(base / "v1" / "one.safetensors", headers.rows("sd1"))
    headers.write(base / "v2" / "two_turbo.ckpt", headers.rows("sd2"))
    said = {"modelspec.trigger_phrase": "ink style, brush"}
    headers.write(base / "lora" / "ink.safetensors", headers.rows("lora-sdxl"), said)
    (base / "v1" / "broken.ckpt").touch()
    return base


def test_models_of_a_running_server_are_a_table(
    running: Callable[..., Any], capsys: Capture
) -> None:
    with running(ScriptedEngine()) as port:
        assert main(["models", "--port", str(port)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["name", "kind", "arch", "version", "format", "few", "steps", "default", "loaded", "for"],
        ["shapes", "model", "v1", "diffusers", "yes"],
        ["other", "model", "v1", "diffusers"],
    ]


def test_models_of_a_running_server_as_json(running: Callable[..., Any], capsys: Capture) -> None:
    engine = ScriptedEngine()
    engine.useless["v1/broken"] = "it is empty"
    with running(engine) as port:
        assert main(["models", "--json", "--port", str(port)]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in listing["models"]] == ["shapes", "other"]
    assert listing["unusable"] == [{"name": "v1/broken", "reason": "it is empty"}]


def test_without_a_server_what_is_on_disk_is_listed_with_all_that_is_known(
    dead_port: int, tmp_path: Path, capsys: Capture
) -> None:
    base = str(base_path(tmp_path))
    assert main(["models", "--json", "--port", str(dead_port), "--model-base-path", base]) == 0
    listing = json.loads(capsys.readouterr().out)
    columns = ("name", "kind", "arch", "version", "format", "distillation", "loaded", "default")
    assert [tuple(model[column] for column in columns) for model in listing["models"][:3]] == [
        ("lora/ink", "lora", "sdxl", "xl", "safetensors", None, False, False),
        ("v1/one", "model", "sd1", "v1", "safetensors", None, False, True),
        ("v2/two_turbo", "model", "sd2", "v2", "safetensors", "turbo", False, True),
    ]
    assert listing["models"][0]["trigger_words"] == ["ink style", "brush"]
    assert listing["unusable"] == [{"name": "v1/broken.ckpt", "reason": "it is empty"}]


def test_the_table_ends_with_what_cannot_be_used(
    dead_port: int, tmp_path: Path, capsys: Capture
) -> None:
    base = str(base_path(tmp_path))
    assert main(["models", "--port", str(dead_port), "--model-base-path", base]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("ink style, brush")
    assert lines[2].endswith("txt2img, img2img, inpaint, outpaint")
    assert lines[-3:] == ["", "unusable        why", "v1/broken.ckpt  it is empty"]


def test_the_table_leaves_open_what_a_file_does_not_tell(
    dead_port: int, tmp_path: Path, capsys: Capture
) -> None:
    rows = {"lora_unet_a.lora_up.weight": ["F16", [4, 2]]}
    headers.write(tmp_path / "models" / "Lora" / "plain.safetensors", rows)
    words = ["models", "--port", str(dead_port), "--model-base-path", str(tmp_path / "models")]
    assert main(words) == 0
    assert ["Lora/plain", "lora", "safetensors"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]


def test_listing_the_models_on_disk_imports_no_torch(dead_port: int, tmp_path: Path) -> None:
    program = (
        "import sys; from runai.cli import main; main(sys.argv[1:])\n"
        "assert not {'torch', 'diffusers', 'runai.engine.engine'} & sys.modules.keys()"
    )
    words = ["models", "--port", str(dead_port), "--model-base-path", str(base_path(tmp_path))]
    subprocess.run([sys.executable, "-c", program, *words], timeout=30, check=True)


def test_status_of_a_running_server(running: Callable[..., Any], capsys: Capture) -> None:
    with running(ScriptedEngine()) as port:
        assert main(["models", "--port", str(port)]) == 0  # the engine is made by then
        capsys.readouterr()
        assert main(["status", "--port", str(port)]) == 0
        shown = capsys.readouterr().out
        assert main(["status", "--json", "--port", str(port)]) == 0
    assert "state    ready\n" in shown
    assert "none loaded" in shown
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["running"], status["queued"]) == ("ready", 0, 0)


def test_status_without_a_server_is_one_line_and_fails(dead_port: int, capsys: Capture) -> None:
    assert main(["status", "--port", str(dead_port)], make_engine=ScriptedEngine) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"runai: No server answers on localhost, port {dead_port}")
    assert printed.err.endswith("[no_server]\n")
    assert printed.err.count("\n") == 1


def test_the_example_is_found_in_the_package_or_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runai.__file__", str(tmp_path / "runai" / "__init__.py"))
    assert wiring.example_path() is None
    beside = tmp_path / "models.example"  # as in a checkout
    beside.mkdir()
    assert wiring.example_path() == beside
    inside = tmp_path / "runai" / "models.example"  # as installed
    inside.mkdir(parents=True)
    assert wiring.example_path() == inside
