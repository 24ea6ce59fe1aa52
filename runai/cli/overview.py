"""`runai --help`: the commands, and the flags that most people need, on one screen.

A screen has 24 lines of 80 characters, one of which is the prompt. Of a flag's help as much is
shown as fits on its line. Everything is in `runai serve --help` and in docs/settings.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from runai.cli import COMMANDS
from runai.cli.exit_codes import ExitCode
from runai.settings import ROWS, Row

if TYPE_CHECKING:
    from runai.jobs.engine import Engine

COLUMNS = 80
USUAL = (
    "host", "port", "model_base_path", "keep_alive", "idle_exit_s", "device", "dtype",
    "max_memory", "token_file", "tls_cert", "tls_key",
)  # fmt: skip
CLAUSE = re.compile(r"(?=[;:] )")


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    print("\n".join(lines()))
    return ExitCode.OK


def lines() -> Iterator[str]:
    yield "usage: runai [COMMAND] [FLAGS]       more: runai COMMAND --help, runai --version"
    yield ""
    width = max(map(len, COMMANDS))
    for name, what in COMMANDS.items():
        yield f"  {name:{width}}  {what}"
    yield ""
    yield "Flags of the server (all: runai serve --help):"
    flags = [ROWS[name] for name in USUAL]
    width = max(len(row.flag) for row in flags)
    for row in flags:
        yield f"  {row.flag:{width}}  {_short(row, COLUMNS - width - 4)}"


def _short(row: Row, room: int) -> str:
    """As many clauses of its help as there is room for, and at least one."""
    first, *others = CLAUSE.split(row.help)
    for clause in others:
        if len(first + clause) > room:
            break
        first += clause
    return first
