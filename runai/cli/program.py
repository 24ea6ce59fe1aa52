"""How this program is started once more, as a child."""

from __future__ import annotations

import sys


def words() -> list[str]:
    """What comes before a command."""
    # a packaged program is its own interpreter
    return [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "runai"]
