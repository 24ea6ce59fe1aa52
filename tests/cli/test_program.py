"""How the program starts itself once more."""

from __future__ import annotations

import subprocess
from pathlib import Path

from runai.cli import program


def test_what_lies_in_the_folder_that_it_is_started_in_is_not_imported(tmp_path: Path) -> None:
    for name in ("argparse", "runai", "json"):
        (tmp_path / f"{name}.py").write_text("print('imported')")
    words = [*program.words(), "--version"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("runai ")
