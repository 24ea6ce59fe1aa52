"""What this program is, and how it is started once more, as a child."""

from __future__ import annotations

import sys


def is_packed() -> bool:
    """Whether it is the one of bin/buildlinux.sh, with all it needs inside: its own interpreter."""
    return bool(getattr(sys, "frozen", False))


def words() -> list[str]:
    """What comes before a command."""
    return [sys.executable] if is_packed() else [sys.executable, "-m", "runai"]
