"""`runai models`: the catalogue, from the running server or, without one, from the disk.

`runai models get` and `runai models convert` have files of their own.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence

from runai.cli.embedded import client_for
from runai.cli.exit_codes import ExitCode
from runai.cli.parser import Parser
from runai.cli.wiring import example_path
from runai.engine.catalogue import Catalogue
from runai.errors import NoServer
from runai.jobs.engine import Engine
from runai.schema.events import ModelInfo
from runai.settings import Settings, is_loopback

COLUMNS = ("name", "version", "format", "default", "loaded")
SUBCOMMANDS = {
    "get": "fetch a model from the hub (the only command that uses the network)",
    "convert": "make a .ckpt, .safetensors or diffusers folder of another",
}


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    if words and words[0] in SUBCOMMANDS:
        return int(importlib.import_module(f"runai.cli.{words[0]}").run(words[1:], make_engine))
    parser = Parser(
        "models",
        "List the models, of the running server if there is one.",
        epilog="; ".join(f"runai models {name}: {what}" for name, what in SUBCOMMANDS.items()),
    )
    parser.add_argument("--json", action="store_true", help="one JSON array")
    parser.add_settings(("host", "port", "packet_size", "model_base_path", "insecure"))
    arguments, settings = parser.read(words)
    models = [model.model_dump() for model in _models(settings)]
    if arguments.json:
        print(json.dumps(models, indent=2))
    else:
        _print_table(models)
    return ExitCode.OK


def _models(settings: Settings) -> list[ModelInfo]:
    with client_for(settings, observer=True) as client:
        try:
            return client.models()
        except NoServer:
            if not is_loopback(settings.host):
                raise
    return _on_disk(settings)


def _on_disk(settings: Settings) -> list[ModelInfo]:
    return Catalogue([settings.model_base_path], example_path()).infos()


def _print_table(models: Sequence[dict[str, object]]) -> None:
    shown = [[_cell(model[column]) for column in COLUMNS] for model in models]
    rows = [list(COLUMNS), *shown]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def _cell(value: object) -> str:
    return {True: "yes", False: ""}[value] if isinstance(value, bool) else str(value)
