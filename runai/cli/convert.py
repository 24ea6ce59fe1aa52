"""`runai models convert SOURCE TARGET`: one form of a model into another.

The target's ending says which: .safetensors, .ckpt, or none for a diffusers folder. A path
that is not there as it stands is looked for below the base path.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from runai.cli.exit_codes import ExitCode
from runai.cli.parser import Parser
from runai.cli.wiring import stay_offline
from runai.jobs.engine import Engine

tqdm.monitor_interval = 0  # or tqdm starts a thread of its own


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    arguments, settings = command_line().read(words)
    base = settings.model_base_path.expanduser()
    stay_offline()
    from runai.engine import conversion  # imports torch

    source = _found(arguments.source, base)
    conversion.check_target(arguments.target, force=arguments.force)
    planned = conversion.plan(source, arguments.target, [base])
    total = planned.total_bytes
    with tqdm(total=total, unit="B", unit_scale=True, disable=None, file=sys.stderr) as bar:
        planned.write(bar.update, force=arguments.force)
    if planned.dropped:
        _say(f"{len(planned.dropped)} tensors that drawing has no use for were left out.")
    print(arguments.target)
    return ExitCode.OK


def command_line() -> Parser:
    parser = Parser("models convert", "Make a .ckpt, .safetensors or diffusers folder of another.")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a model file or folder")
    parser.add_argument(
        "target", type=Path, metavar="TARGET", help="NAME.safetensors, NAME.ckpt, or a new folder"
    )
    parser.add_argument("--force", action="store_true", help="replace a target that is there")
    parser.add_settings(("model_base_path",))
    return parser


def _found(path: Path, base: Path) -> Path:
    return path if path.exists() or path.is_absolute() else base / path


def _say(line: str) -> None:
    print(line, file=sys.stderr)
