"""What the README says about flags, exit codes, commands and files is so."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from runai.cli import COMMANDS, certificate, convert, get, main, options, wiring
from runai.cli.exit_codes import MEANINGS
from runai.cli.fetch import vocabulary
from runai.cli.fetch.wellknown import WELL_KNOWN
from runai.engine.catalogue import Catalogue
from runai.engine.conversion import form_of
from runai.schema import codec
from runai.settings import ROWS, SWITCH, Row, as_text

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def flag_line(row: Row) -> str:
    default = (
        "off" if row.kind is SWITCH else f"`{as_text(row.default)}`".replace(str(Path.home()), "~")
    )
    return f"| `{row.flag}` | {default} | {row.help} |"


def test_the_table_of_flags_is_the_settings() -> None:
    lines = [line for line in README.splitlines() if line.startswith("| `--")]
    assert lines == [flag_line(row) for row in ROWS.values()]


def test_the_table_of_exit_codes_is_complete() -> None:
    lines = [line for line in README.splitlines() if re.match(r"\| \d+ \|", line)]
    assert lines == [f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items()]


def test_every_command_and_option_in_the_examples_exists() -> None:
    known = {flag for option in options.OPTIONS for flag in option.flags}
    known |= {row.flag for row in ROWS.values()} | {"-o", "--sidecar", "--task"}
    known |= {
        flag
        for command in (get, convert, certificate)
        for flag in command.command_line()._option_string_actions
    }
    commands = re.findall(r"^runai.*", README, re.MULTILINE)
    assert len(commands) >= 7
    for line in commands:
        words = line.partition("#")[0].split()[1:]
        assert not words or words[0].startswith("-") or words[0] in COMMANDS
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= known, line


LORAS = re.findall(r"^runai generate (.*--lora [^#\n]*)", README, re.MULTILINE)


@pytest.mark.parametrize("line", LORAS)
def test_what_the_readme_draws_with_comes_along(line: str) -> None:
    parser = argparse.ArgumentParser()
    options.add_to(parser)
    example = wiring.example_path()
    catalogue = Catalogue([], example)
    for lora in options.request_of(parser.parse_args(shlex.split(line))).loras:
        assert catalogue.find(lora.name, "v1", kind="lora").base == example


GETS = re.findall(r"^runai models get ([^#\n]*)", README, re.MULTILINE)
CONVERSIONS = re.findall(r"^runai models convert ([^#\n]*)", README, re.MULTILINE)


@pytest.mark.parametrize("line", GETS)
def test_what_the_readme_fetches_could_be_fetched(line: str) -> None:
    """Up to the hub, which is not there for a test."""
    repo = get.command_line().parse_args(shlex.split(line)).repo
    assert repo == vocabulary.NAME or repo in WELL_KNOWN or repo.count("/") == 1


def test_what_the_readme_converts_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "models"
    (base / "v1").mkdir(parents=True)
    torch.save({"state_dict": {"a": torch.ones(2)}}, base / "v1" / "my-model.ckpt")
    monkeypatch.chdir(tmp_path)
    first, *others = [shlex.split(line) for line in CONVERSIONS]
    assert main(["models", "convert", *first, "--model-base-path", str(base)]) == 0
    assert (tmp_path / first[1]).is_file()
    forms = [(form_of(Path(words[0])), form_of(Path(words[1]))) for words in others]
    assert forms == [("safetensors", "diffusers"), ("diffusers", "safetensors")]


@pytest.mark.parametrize("line", re.findall(r'^\{"type": .*\}$', README, re.MULTILINE))
def test_the_messages_in_the_example_are_valid(line: str) -> None:
    message = json.loads(line)
    if message["type"] in ("generate", "cancel") or "client" in message:
        codec.parse_command(message)
    elif '"…": "…"' not in line:  # those with a part left out cannot be
        codec.parse_event(message)


DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "client_example/README.md",
    "client_example/krita/README.md",
    "docs/krita.md",
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_to_files_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert targets
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert missing == []
