"""The commands, and the composition root: the only room that knows all the others.

`runai`, `runai serve` and `python -m runai` serve; `generate`, `models` and `status` are clients,
`doctor` looks at the installation, `bench` measures, `certificate` and `service` write files. One
file per command, each with `run(words, make_engine) -> exit code`; a command's file is imported
when it is asked for, so that serving does not wait for the others' imports.
An error ends as one line on stderr, never as a traceback. Decides nothing about drawing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runai.cli.exit_codes import ExitCode, code_of
from runai.cli.last_word import last_word
from runai.cli.plain import plain
from runai.errors import InvalidSetting, RunAIError

if TYPE_CHECKING:
    from runai.jobs.engine import Engine

COMMANDS = {
    "serve": "draw for clients (what runai does without a command)",
    "generate": "draw a picture and save it",
    "models": "list the models",
    "status": "tell what the server is doing",
    "doctor": "check the installation",
    "service": "have systemd start the server when somebody connects",
    "certificate": "make what it takes to share a server with other computers",
    "bench": "measure what is claimed about speed, and draw it",
}
HELP = ("-h", "--help")  # without a command before it: what there is, on one screen


def main(
    argv: Sequence[str] | None = None, *, make_engine: Callable[[], Engine] | None = None
) -> int:
    """Run a command; its exit code.

    `argv`: the words after the program's name. `make_engine`: who draws; None: torch.
    """
    sys.dont_write_bytecode = True  # no file is written: compiled modules are files too
    try:
        command, words = _choose(list(sys.argv[1:] if argv is None else argv))
        run = importlib.import_module(f"runai.cli.{command}").run
        return int(run(words, make_engine))
    except RunAIError as error:
        last_word(f"runai: {plain(str(error))}")
        return code_of(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _choose(words: list[str]) -> tuple[str, list[str]]:
    if words and words[0] in HELP:
        return "overview", words
    if not words or words[0].startswith("-"):
        return "serve", words
    if words[0] not in COMMANDS:
        raise InvalidSetting(
            f"There is no command {words[0]!r}.", hint=f"Use one of: {', '.join(COMMANDS)}."
        )
    return words[0], words[1:]
