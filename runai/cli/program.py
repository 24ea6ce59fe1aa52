"""What this program is, and how it is started once more, as a child."""

from __future__ import annotations

import sys


def is_packed() -> bool:
    """Whether it is the one of bin/buildlinux.sh, with all it needs inside: its own interpreter."""
    return bool(getattr(sys, "frozen", False))


def words() -> list[str]:
    """What comes before a command."""
    # -P: what lies in the folder that it is started in is not to be imported
    return [sys.executable] if is_packed() else [sys.executable, "-P", "-m", "runai"]
