"""Command lines: argparse with our one-line errors, and the settings as flags.

The values of settings stay text here: `runai.settings` reads them, as it reads those of the
environment and the file, so that a wrong one gets the same line wherever it comes from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from runai import __version__, settings
from runai.errors import InvalidSetting
from runai.settings import ROWS, SWITCH, Row, Settings, as_text

# what leads to a server that is there
ASKING = (
    "host", "port", "listen", "token_file", "tls_cert", "tls", "tls_client_cert", "packet_size",
    "insecure",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Raises InvalidSetting where argparse would print its usage and exit."""

    def __init__(self, command: str, description: str, **more: str) -> None:
        prog = f"runai {command}".rstrip()
        super().__init__(prog, description=description, allow_abbrev=False, **more)  # type: ignore[arg-type]
        self.add_argument("--version", action="version", version=f"runai {__version__}")

    def error(self, message: str) -> NoReturn:
        raise InvalidSetting(f"{message}.", hint=f"See `{self.prog} --help`.")

    def add_settings(self, names: Iterable[str] = ROWS) -> None:
        """Flags for these settings, and --config."""
        group = self.add_argument_group("settings")
        group.add_argument("--config", type=Path, metavar="PATH", help="TOML file of settings")
        for name in names:
            _add(group, ROWS[name])

    def options(self) -> Sequence[argparse.Action]:
        """Everything that may be given, in the order in which help shows it."""
        return self._actions

    def read(self, words: Sequence[str]) -> tuple[argparse.Namespace, Settings]:
        """The command's own arguments and the settings in force. Raises InvalidSetting."""
        arguments = self.parse_args(words)
        return arguments, settings.load(vars(arguments), config=arguments.config, warn=_warn)


def _add(group: argparse._ArgumentGroup, row: Row) -> None:
    if row.kind is SWITCH:
        group.add_argument(row.flag, action=argparse.BooleanOptionalAction, help=row.help)
    else:
        help_ = f"{row.help} ({as_text(row.default)})"
        group.add_argument(row.flag, metavar=row.kind.word, help=help_)


def _warn(line: str) -> None:
    print(f"runai: {line}", file=sys.stderr)
