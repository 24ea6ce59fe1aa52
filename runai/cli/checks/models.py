"""The model folders: whether they can be used, and what is in them."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from runai.cli.checks import Finding
from runai.cli.wiring import example_path
from runai.engine import vocabulary
from runai.engine.catalogue import Catalogue
from runai.errors import VocabularyMissing
from runai.settings import Settings

GET = "Run `runai models get base-v1`, or put a model there; until then the example draws."


def folders(settings: Settings) -> Iterator[Finding]:
    for base in settings.model_base_path:
        yield _folder(base)


def _folder(base: Path) -> Finding:
    if not base.is_dir():
        return Finding("warning", f"There is no folder {base}.", f"Make it. {GET}")
    if not os.access(base, os.R_OK | os.X_OK):
        return Finding("problem", f"{base} cannot be read.", f"Run: chmod u+rx '{base}'")
    for path in (base, *sorted(base.iterdir())):
        if path.is_dir() and path.stat().st_mode & stat.S_IWOTH:
            return Finding("warning", f"Everybody may write to {path}.", f"Run: chmod o-w '{path}'")
    return Finding("ok", str(base))


def catalogue(settings: Settings) -> Iterator[Finding]:
    with closing(Catalogue(settings.model_base_path)) as own:
        kinds = Counter(entry.kind for entry in own.entries())
        useless = own.unusable()
    found = ", ".join(f"{count} of kind {kind}" for kind, count in kinds.items())
    if kinds["model"]:
        yield Finding("ok", found)
    else:
        yield Finding("warning", f"No model of yours; {found or 'nothing else either'}.", GET)
    for thing in useless:
        yield Finding("warning", f"{thing.name}: {thing.reason}", "Fetch it again, or remove it.")


def example(settings: Settings) -> Iterator[Finding]:
    path = example_path()
    if path is None:
        yield Finding(
            "problem", "The example models did not come along.", "Install the package again."
        )
        return
    with closing(Catalogue([], path)) as own:
        names = [entry.name for entry in own.entries("model")]
        for thing in own.unusable():
            yield Finding("problem", f"{thing.name}: {thing.reason}", "Install the package again.")
    yield Finding("ok", f"{', '.join(names)} in {path}")


def clip_vocabulary(settings: Settings) -> Iterator[Finding]:
    """Only models of one file need it."""
    with closing(Catalogue(settings.model_base_path)) as own:
        needing = [e.name for e in own.entries("model") if e.format != "diffusers"]
        paths = own.base_paths
    try:
        vocabulary.find(paths, vocabulary.END)
    except VocabularyMissing as error:
        if needing:
            yield Finding("problem", f"{error.message} ({', '.join(needing)})", error.hint)
        else:
            yield Finding("ok", "not there, and no model of yours needs it")
    else:
        yield Finding("ok", "there, and sound")
