"""Memory that threads have freed goes back to be used by others.

glibc gives threads pools of their own, up to eight a processor, and keeps in each what was freed
there. Every client has two threads here, and a picture passes through them in pieces of megabytes:
one client after the other would leave some tens of MB behind in each pool. What is
large is allocated seldom enough that nobody waits for a pool.
Does nothing where there is another C library.
"""

from __future__ import annotations

import ctypes
import sys

M_ARENA_MAX = -8  # malloc.h
POOLS = 2


def share() -> None:
    """For threads that are started from now on."""
    if sys.platform == "linux":
        tune = getattr(ctypes.CDLL(None), "mallopt", None)
        if tune is not None:
            tune(M_ARENA_MAX, POOLS)
