"""What the README says about flags, exit codes, commands and files is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runai.cli import COMMANDS, options
from runai.cli.exit_codes import MEANINGS
from runai.schema import codec
from runai.settings import ROWS, SWITCH, Row

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def flag_line(row: Row) -> str:
    default = "off" if row.kind is SWITCH else f"`{row.default}`".replace(str(Path.home()), "~")
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
    commands = re.findall(r"^runai.*", README, re.MULTILINE)
    assert len(commands) >= 7
    for line in commands:
        words = line.partition("#")[0].split()[1:]
        assert not words or words[0].startswith("-") or words[0] in COMMANDS
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= known, line


@pytest.mark.parametrize("line", re.findall(r'^\{"type": .*\}$', README, re.MULTILINE))
def test_the_messages_in_the_example_are_valid(line: str) -> None:
    message = json.loads(line)
    if message["type"] in ("generate", "cancel") or "client" in message:
        codec.parse_command(message)
    elif '"…": "…"' not in line:  # those with a part left out cannot be
        codec.parse_event(message)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "client_example/README.md"])
def test_links_to_files_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert targets
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert missing == []
