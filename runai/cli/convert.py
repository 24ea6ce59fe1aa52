"""`runai models convert SOURCE TARGET`: one form of a model into another.

The target's ending says which: .safetensors, .ckpt, or none for a diffusers folder. A path
that is not there as it stands is looked for below the base paths.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from runai.cli.exit_codes import ExitCode
from runai.cli.parser import Parser
from runai.cli.wiring import example_path, stay_offline
from runai.engine.catalogue import Catalogue, Entry
from runai.errors import InvalidSetting, ModelError, ModelNotFound, ModelUnsupported
from runai.jobs.engine import Engine
from runai.schema.events import Kind

ENDINGS = {"safetensors": ".safetensors", "ckpt": ".ckpt", "diffusers": ""}
OTHERS: dict[Kind, str] = {"lora": "a LoRA", "embedding": "an embedding", "vae": "a VAE"}
tqdm.monitor_interval = 0  # or tqdm starts a thread of its own


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    arguments, settings = command_line().read(words)
    bases = settings.model_base_path
    stay_offline()
    from runai.engine import conversion  # imports torch

    source, target = _beside(arguments, bases) if arguments.to else _named(arguments, bases)
    conversion.check_target(target, force=arguments.force)
    planned = conversion.plan(source, target, bases)
    total = planned.total_bytes
    with tqdm(total=total, unit="B", unit_scale=True, disable=None, file=sys.stderr) as bar:
        planned.write(bar.update, force=arguments.force)
    if planned.dropped:
        _say(f"{len(planned.dropped)} tensors that drawing has no use for were left out.")
    print(target)
    return ExitCode.OK


def command_line() -> Parser:
    parser = Parser("models convert", "Make a .ckpt, .safetensors or diffusers folder of another.")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a model file or folder")
    parser.add_argument(
        "target",
        nargs="?",
        type=Path,
        metavar="TARGET",
        help="NAME.safetensors, NAME.ckpt, or a new folder",
    )
    parser.add_argument(
        "--to", choices=ENDINGS, help="no TARGET: beside SOURCE, a name as `runai models` lists it"
    )
    parser.add_argument("--force", action="store_true", help="replace a target that is there")
    parser.add_settings(("model_base_path",))
    return parser


def _named(arguments: Namespace, bases: Sequence[Path]) -> tuple[Path, Path]:
    """Two paths, as they stand; a source that is not there is looked for below the base paths."""
    source: Path = arguments.source
    if arguments.target is None:
        raise InvalidSetting("Where to, is not said.", hint="Give TARGET, or --to.")
    if source.exists() or source.is_absolute():
        return source, arguments.target
    below = [base / source for base in bases]
    return next((path for path in below if path.exists()), below[0]), arguments.target


def _beside(arguments: Namespace, bases: Sequence[Path]) -> tuple[Path, Path]:
    """A model of the catalogue, and its name with another ending; nothing else can be named."""
    if arguments.target is not None:
        raise InvalidSetting("--to: TARGET is given too.", hint="Give one of them.")
    source = _model(Catalogue(bases, example_path()), str(arguments.source)).path
    stem = source.name if source.is_dir() else source.stem
    return source, source.with_name(f"{stem}{ENDINGS[arguments.to]}")


def _model(catalogue: Catalogue, name: str) -> Entry:
    """The model of this name. Raises ModelUnsupported if something else has it."""
    try:
        return catalogue.find(name)
    except ModelNotFound:
        for kind, what in OTHERS.items():
            if _is_there(catalogue, name, kind):
                raise ModelUnsupported(
                    f"{name} is {what}: only models are converted by their names.",
                    hint="Give the file as SOURCE, and TARGET, to `runai models convert`.",
                ) from None
        raise


def _is_there(catalogue: Catalogue, name: str, kind: Kind) -> bool:
    try:
        catalogue.find(name, kind=kind)
    except ModelError:
        return False
    return True


def _say(line: str) -> None:
    print(line, file=sys.stderr)
