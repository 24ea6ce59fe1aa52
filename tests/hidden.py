"""What a program says where a package is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_HIDE = "import sys; sys.modules[{package!r}] = None\n"


def said_without(package: str, program: str) -> list[str]:
    """The lines that a program prints in a process of its own, which cannot import `package`."""
    ran = subprocess.run(
        [sys.executable, "-c", _HIDE.format(package=package) + program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=True,
    )
    return ran.stdout.splitlines()
