"""Files whose content is nobody else's business, or who may not be written by others.

`PRIVATE` names the settings that lead to them; one that this version does not have is passed over.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from runai.cli.checks import Finding
from runai.settings import Settings

PRIVATE = ("token_file", "tls_key")
GROUP_OR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def private_files(settings: Settings) -> Iterator[Finding]:
    given = {name: getattr(settings, name, None) for name in PRIVATE}
    paths = {name: Path(path) for name, path in given.items() if path}
    for name, path in paths.items():
        yield _looked_at(name, path)
    if not paths:
        yield Finding("ok", "none are set")


def _looked_at(name: str, path: Path) -> Finding:
    if not path.is_file():
        return Finding("problem", f"{name}: there is no file {path}.", f"Correct {name}.")
    if not os.access(path, os.R_OK):
        return Finding("problem", f"{name}: {path} cannot be read.", f"Run: chmod u+r '{path}'")
    if path.stat().st_mode & GROUP_OR_OTHERS:
        return Finding(
            "problem", f"{name}: others may read or write {path}.", f"Run: chmod 600 '{path}'"
        )
    return Finding("ok", f"{name}: {path} is for its owner only")
