"""Writes what can be known from the code into the pages of docs/.

Run `python -m runai.cli.document docs/` after changing the schema, the errors, the settings, the
exit codes or a command's options; a test fails until it is done. `runai.schema.document` tells how
a part is marked in a page, and has the parts of the schema; those of the commands are here. Knows
no file but the ones it is pointed to.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from runai.cli import (
    bench,
    certificate,
    convert,
    doctor,
    generate,
    get,
    models,
    serve,
    service,
    status,
)
from runai.cli.exit_codes import MEANINGS, code_of
from runai.cli.parser import Parser
from runai.errors import RunAIError, all_errors
from runai.schema import document
from runai.schema.document import fill, meanings, table
from runai.settings import ROWS, SWITCH, Row, as_text

COMMAND_LINES: tuple[Callable[[], Parser], ...] = (
    serve.command_line,
    generate.command_line,
    models.command_line,
    get.command_line,
    convert.command_line,
    status.command_line,
    doctor.command_line,
    service.command_line,
    certificate.command_line,
    bench.command_line,
)
EVERYWHERE = ("help", "version", "config")  # options of every command


def settings() -> str:
    """Every setting: its flag, what holds without it, what is allowed, what it is for."""
    rows = [(f"`{row.flag}`", _default(row), row.kind.allowed, row.help) for row in ROWS.values()]
    return table(("flag", "default", "allowed", "meaning"), rows)


def _default(row: Row) -> str:
    if row.kind is SWITCH:
        return "off"
    return f"`{as_text(row.default)}`".replace(str(Path.home()), "~")


def exit_codes() -> str:
    return table(("code", "meaning"), [(str(int(c)), what) for c, what in MEANINGS.items()])


def commands() -> str:
    """Of each command its own options, and which settings it takes."""
    return "\n\n".join("\n\n".join(_command(make())) for make in COMMAND_LINES)


def _command(parser: Parser) -> Iterator[str]:
    yield f"### {parser.prog}"
    yield parser.description or ""
    actions = [action for action in parser.options() if action.dest not in EVERYWHERE]
    rows = [
        (_names(action), action.help or "")
        for action in actions
        if action.dest not in ROWS and action.help != argparse.SUPPRESS
    ]
    if rows:
        yield table(("option", "meaning"), rows)
    taken = [f"`{ROWS[action.dest].flag}`" for action in actions if action.dest in ROWS]
    if parser.epilog:
        yield f"{parser.epilog}."
    if len(taken) == len(ROWS):
        yield "It takes every setting."
    elif taken:
        yield f"Of the settings it takes {', '.join(taken)}."


def _names(action: argparse.Action) -> str:
    value = action.metavar or "|".join(map(str, action.choices or ()))
    if not action.option_strings:
        return f"`{value or action.dest}`"
    shown = "" if action.nargs == 0 else f" {value or action.dest.upper()}"
    return ", ".join(f"`{name}{shown}`" for name in action.option_strings)


def error_help() -> str:
    """A heading for every code, to link to: what happened, what to do, how a command ends."""
    return "\n\n".join(map(_error, all_errors().values()))


def _error(cls: type[RunAIError]) -> str:
    happened = meanings()[cls.code]
    return (
        f"### `{cls.code}`\n\n"
        f"{happened[0].upper()}{happened[1:]}.\n\n"
        f"What to do: {cls.default_hint} (A command ends with {int(code_of(cls('')))}.)"
    )


PARTS: dict[str, Callable[[], str]] = {
    **document.PARTS,
    "settings": settings,
    "exit-codes": exit_codes,
    "commands": commands,
    "error-help": error_help,
}


def main(folder: Path) -> None:
    """Bring the marked parts of every page in `folder` up to date."""
    for page in sorted(folder.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        page.write_text(fill(text, PARTS), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
