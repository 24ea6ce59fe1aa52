"""`runai models`: the catalogue, from the running server or, without one, from the disk.

`runai models get` and `runai models convert` have files of their own.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence

from runai.cli import wiring
from runai.cli.exit_codes import ExitCode
from runai.cli.parser import ASKING, Parser
from runai.engine.catalogue import Catalogue
from runai.errors import NoServer
from runai.jobs.engine import Engine
from runai.schema.events import ModelInfo, Models
from runai.settings import Settings

COLUMNS = ("name", "kind", "arch", "version", "format", "few steps", "default", "loaded", "for")
UNUSABLE_COLUMNS = ("unusable", "why")
SUBCOMMANDS = {
    "get": "fetch a model from the hub (the only command that uses the network)",
    "convert": "make a .ckpt, .safetensors or diffusers folder of another",
}


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    if words and words[0] in SUBCOMMANDS:
        return int(importlib.import_module(f"runai.cli.{words[0]}").run(words[1:], make_engine))
    arguments, settings = command_line().read(words)
    listing = _listing(settings)
    if arguments.json:
        print(json.dumps(listing.model_dump(exclude={"type"}), indent=2))
        return ExitCode.OK
    _print_table([COLUMNS, *map(_row, listing.models)])
    if listing.unusable:
        print()
        _print_table([UNUSABLE_COLUMNS, *((u.name, u.reason) for u in listing.unusable)])
    return ExitCode.OK


def command_line() -> Parser:
    parser = Parser(
        "models",
        "List the models, of the running server if there is one.",
        epilog="; ".join(f"runai models {name}: {what}" for name, what in SUBCOMMANDS.items()),
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object, with everything that is known"
    )
    parser.add_settings((*ASKING, "model_base_path"))
    return parser


def _listing(settings: Settings) -> Models:
    with wiring.client(settings, observer=True) as client:
        try:
            return client.listing()
        except NoServer:
            if not settings.is_local:
                raise
    catalogue = Catalogue(settings.model_base_path, wiring.example_path())
    return Models(models=catalogue.infos(), unusable=catalogue.unusable())


def _row(model: ModelInfo) -> Sequence[str]:
    """`for`: the tasks of a model, the words of a LoRA, what a tiny VAE does unasked."""
    yes = {True: "yes", False: ""}
    previews = ["previews"] if model.tiny else []
    return (
        model.name,
        model.kind,
        model.arch,
        model.version or "",
        model.format,
        model.distillation or "",
        yes[model.default],
        yes[model.loaded],
        ", ".join(model.tasks or model.trigger_words or previews),
    )


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())
