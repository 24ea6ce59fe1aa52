"""`runai models` and `runai status`, with and without a server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runai.cli import main, wiring
from runai.testing.scripted import ScriptedEngine

Capture = pytest.CaptureFixture[str]


def base_path(root: Path) -> Path:
    """A model folder; its files are empty, for only names are listed."""
    base = root / "models"
    for name in ("v1/one.safetensors", "v2/two.ckpt"):
        path = base / name
        path.parent.mkdir(parents=True)
        path.touch()
    return base


def test_models_of_a_running_server_are_a_table(
    running: Callable[..., Any], capsys: Capture
) -> None:
    with running(ScriptedEngine()) as port:
        assert main(["models", "--port", str(port)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "name    version  format     default  loaded",
        "shapes  v1       diffusers  yes",
        "other   v1       diffusers",
    ]


def test_models_of_a_running_server_as_json(running: Callable[..., Any], capsys: Capture) -> None:
    with running(ScriptedEngine()) as port:
        assert main(["models", "--json", "--port", str(port)]) == 0
    assert [model["name"] for model in json.loads(capsys.readouterr().out)] == ["shapes", "other"]


def test_without_a_server_the_models_on_disk_are_listed(
    dead_port: int, tmp_path: Path, capsys: Capture
) -> None:
    base = str(base_path(tmp_path))
    assert main(["models", "--json", "--port", str(dead_port), "--model-base-path", base]) == 0
    models = json.loads(capsys.readouterr().out)
    columns = ("name", "version", "format", "loaded", "default")
    assert [tuple(model[column] for column in columns) for model in models[:2]] == [
        ("v1/one", "v1", "safetensors", False, True),
        ("v2/two", "v2", "ckpt", False, True),
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


def test_the_example_is_found_beside_the_package_or_where_it_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setattr("runai.__file__", str(tmp_path / "site" / "runai" / "__init__.py"))
    assert wiring.example_path() is None
    installed = tmp_path / "prefix" / "share" / "runai" / "models.example"
    installed.mkdir(parents=True)
    assert wiring.example_path() == installed
    beside = tmp_path / "site" / "models.example"
    beside.mkdir(parents=True)
    assert wiring.example_path() == beside
