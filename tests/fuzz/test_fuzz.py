"""Inputs that broke something once break nothing now, nor do thousands of changed ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.mutation import mutants
from tests.fuzz.seeds import CORPUS
from tests.fuzz.targets import TARGETS

KEPT = [path for name in TARGETS for path in sorted((CORPUS / name).iterdir())]
# how many changed inputs each target gets: about a second of them
COUNTS = {
    "wire": 1500, "messages": 4000, "krita": 3000, "fields": 1500, "pictures": 1500,
    "prompts": 400, "texts": 800, "model_files": 300, "safetensors": 300, "checkpoints": 300,
    "server": 600, "events": 600, "answers": 500, "toml": 400, "flags": 2000,
}  # fmt: skip


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_is_kept_breaks_nothing(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


def test_every_target_has_its_examples() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS) == set(COUNTS)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_break_nothing(name: str) -> None:
    inputs = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    for data in mutants(inputs, COUNTS[name], name):
        try:
            TARGETS[name](data)
        except Exception as error:
            error.add_note(f"The input, to be kept in {CORPUS / name}: {data!r}")
            raise
