"""`runai --help` fits a screen; everything that may be given is in the reference."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest
from documents import read

from runai.cli import COMMANDS, main, models, overview
from runai.cli.document import COMMAND_LINES
from runai.cli.parser import Parser
from runai.settings import ROWS

REFERENCE = read("docs/settings.md")


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_the_help_fits_a_screen_and_names_every_command(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 24, "the last line of a screen is the prompt"
    assert max(map(len, lines)) <= 80
    words = [line.split()[0] for line in lines if line.startswith("  ")]
    assert words == [*COMMANDS, *(ROWS[name].flag for name in overview.USUAL)]


def test_the_reference_has_every_command() -> None:
    known = {make().prog for make in COMMAND_LINES}
    wanted = {*COMMANDS, *(f"models {name}" for name in models.SUBCOMMANDS)}
    assert known == {f"runai {name}" for name in wanted}
    assert all(f"\n### {name}\n" in REFERENCE for name in known)


@pytest.mark.parametrize("make", COMMAND_LINES, ids=lambda make: make().prog)
def test_the_reference_has_every_flag_of_the_command(make: Callable[[], Parser]) -> None:
    parser = make()
    section = REFERENCE.partition(f"### {parser.prog}\n")[2].partition("\n### ")[0]
    whole = "It takes every setting." in section
    for option in parser.options():
        if option.dest in ("help", "version", "config") or option.help == argparse.SUPPRESS:
            continue
        for flag in option.option_strings:
            settled = whole and flag.replace("--no-", "--", 1) in REFERENCE
            assert settled or f"`{flag}" in section or f"`--{flag[5:]}`" in section, flag
