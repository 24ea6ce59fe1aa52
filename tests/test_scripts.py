"""The scripts' promises that need no installation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copied(folder: Path) -> Path:
    """The scripts and what they read, without a virtual environment beside them."""
    shutil.copytree(ROOT / "bin", folder / "bin")
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def run(script: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", **environ}
    return subprocess.run(
        [str(script), *words], capture_output=True, text=True, timeout=30, env=environment
    )


def test_a_python_that_is_too_old_is_named_with_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = run(copied(tmp_path / "repo") / "bin" / "run.sh", "a star", RUNAI_PYTHON=str(old))
    assert done.returncode == 1
    assert done.stderr.startswith("RunAI needs Python 3.11 or newer, and ")
    assert "RUNAI_PYTHON=" in done.stderr
    assert not (tmp_path / "repo" / ".venv").exists()


def test_without_a_prompt_run_shows_its_usage() -> None:
    done = run(ROOT / "bin" / "run.sh")
    assert (done.returncode, done.stderr.partition(" ")[0]) == (2, "usage:")


def test_ci_calls_exactly_the_test_script() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines == ["#!/bin/sh", 'exec "$(dirname "$0")/../bin/test.sh"']


def test_clean_keeps_the_sources_and_the_environment(tmp_path: Path) -> None:
    repo = copied(tmp_path)
    for name in ("build/x", "runai/__pycache__/a.pyc", ".venv/bin/python", "runai/a.py"):
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).touch()
    assert run(repo / "bin" / "clean.sh").returncode == 0
    left = {str(path.relative_to(repo)) for path in repo.rglob("*") if path.is_file()}
    assert {".venv/bin/python", "runai/a.py"} <= left
    assert not {"build/x", "runai/__pycache__/a.pyc"} & left
