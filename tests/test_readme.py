"""What README.md and docs/ say about flags, exit codes, commands and files is so."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from documents import EVERYTHING, PAGES, ROOT, blocks, read

from runai.cli import COMMANDS, get, main, options, wiring
from runai.cli.document import COMMAND_LINES
from runai.cli.exit_codes import MEANINGS
from runai.cli.fetch import vocabulary
from runai.cli.fetch.wellknown import WELL_KNOWN
from runai.engine.catalogue import Catalogue
from runai.engine.conversion import form_of
from runai.schema import codec
from runai.settings import ROWS, SWITCH, Row, as_text, load

SETTINGS = read("docs/settings.md")


def flag_line(row: Row) -> str:
    default = (
        "off" if row.kind is SWITCH else f"`{as_text(row.default)}`".replace(str(Path.home()), "~")
    )
    return f"| `{row.flag}` | {default} | {row.kind.allowed} | {row.help} |"


def test_the_table_of_flags_is_the_settings() -> None:
    lines = [line for line in SETTINGS.splitlines() if re.match(r"\| `--.*\|.*\|.*\|", line)]
    assert lines == [flag_line(row) for row in ROWS.values()]


def test_the_table_of_exit_codes_is_complete() -> None:
    lines = [line for line in SETTINGS.splitlines() if re.match(r"\| \d+ \|", line)]
    assert lines == [f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items()]


def test_every_command_and_option_in_the_examples_exists() -> None:
    known = {
        flag
        for command_line in COMMAND_LINES
        for option in command_line().options()
        for flag in option.option_strings
    }
    commands = re.findall(r"^runai.*", EVERYTHING, re.MULTILINE)
    assert len(commands) >= 30
    for line in commands:
        words = line.partition("#")[0].split()[1:]
        assert not words or words[0].startswith("-") or words[0] in COMMANDS
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= known, line


LORAS = re.findall(r"^runai generate (.*--lora [^#\n]*)", EVERYTHING, re.MULTILINE)


@pytest.mark.parametrize("line", LORAS)
def test_what_the_readme_draws_with_comes_along(line: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-o")
    options.add_to(parser)
    example = wiring.example_path()
    catalogue = Catalogue([], example)
    for lora in options.request_of(parser.parse_args(shlex.split(line))).loras:
        assert catalogue.find(lora.name, "v1", kind="lora").base == example


GETS = re.findall(r"^runai models get ([^#\n]*)", EVERYTHING, re.MULTILINE)
CONVERSIONS = re.findall(r"^runai models convert ([^#\n]*)", EVERYTHING, re.MULTILINE)


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


MESSAGES = re.findall(r'^\{"type": .*\}$', read("docs/plugins.md"), re.MULTILINE)


@pytest.mark.parametrize("line", MESSAGES)
def test_the_messages_in_the_example_are_valid(line: str) -> None:
    message = json.loads(line)
    if message["type"] in ("generate", "cancel") or "client" in message:
        codec.parse_command(message)
    elif '"…": "…"' not in line:  # those with a part left out cannot be
        codec.parse_event(message)


def test_the_file_of_settings_in_the_example_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stablediffusion").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    (example,) = blocks(SETTINGS, "toml")
    file = tmp_path / "runai.toml"
    file.write_text(example, encoding="utf-8")
    assert load({}, {}, config=file).port == 50007


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", *PAGES])
def test_links_to_files_lead_somewhere(page: str) -> None:
    """Those to places within a page are checked by bin/docs.sh."""
    text, folder = read(page), (ROOT / page).parent
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert targets
    assert [target for target in targets if not (folder / target).exists()] == []


def test_links_to_other_sites_have_the_form_of_an_address() -> None:
    found = re.findall(r"\]\((\w+:[^)]*)\)", EVERYTHING)
    assert found
    assert [url for url in found if not re.fullmatch(r"https://[\w.-]+\.\w+(/[^\s]*)?", url)] == []
