"""What `runai doctor` looks at: a table of checks, one function each.

A check is `function(settings)` in a module of this package and gives its findings; those it
cannot come to for what is broken are one more finding. Modules are imported when their
check is made, so that a package that is missing spoils the checks that need it and no
others. `apart`: made in a child process, because a broken build of torch may end the process
that imports it. Checks change nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from runai.errors import RunAIError
from runai.settings import Settings

State = Literal["ok", "warning", "problem"]
# what installations that are broken raise; whatever else comes is a fault of ours
ILLS = (
    ImportError,
    SyntaxError,
    OSError,
    RuntimeError,
    SystemError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
)
REINSTALL = "Install the package again, with all it needs: pip install --force-reinstall runai."


@dataclass(frozen=True)
class Finding:
    """`found`: a sentence or a few words; `do`: what to do about it."""

    state: State
    found: str
    do: str = ""


@dataclass(frozen=True)
class Check:
    """`needs`: a check without which this one makes no sense. `slow`: not with --quick."""

    name: str
    module: str
    function: str
    apart: bool = False
    needs: str = ""
    slow: bool = False


CHECKS = (
    Check("python", "packages", "python"),
    Check("packages", "packages", "required"),
    Check("extras", "packages", "optional"),
    Check("memory", "machine", "memory"),
    Check("temp folder", "machine", "temp_folder"),
    Check("shared memory", "machine", "shared_memory"),
    Check("model folder", "models", "folders"),
    Check("models", "models", "catalogue"),
    Check("example", "models", "example"),
    Check("port", "port", "port"),
    Check("private files", "private", "private_files"),
    Check("torch", "device", "torch_build", apart=True),
    Check("device", "device", "device", apart=True, needs="torch"),
    Check("numbers", "device", "number_formats", apart=True, needs="device"),
    Check("threads", "device", "threads", apart=True, needs="torch"),
    Check("vocabulary", "models", "clip_vocabulary", apart=True),
    Check("drawing", "drawing", "picture", apart=True, needs="device", slow=True),
)


def made(check: Check, settings: Settings) -> list[Finding]:
    """What a check finds; that it cannot be made is a problem."""
    try:
        function = getattr(importlib.import_module(f"{__name__}.{check.module}"), check.function)
        findings: Iterator[Finding] = function(settings)
        return list(findings)
    except RunAIError as error:
        return [Finding("problem", error.message, error.hint)]
    except ILLS as error:
        said = f"{type(error).__name__}: {error}"
        return [Finding("problem", f"This cannot be checked: {said}.", REINSTALL)]
