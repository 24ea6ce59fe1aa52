"""PURE: the ways in which people write a model's name, and the names that entries have.

An entry is named by its path below the base, without the ending. People write any end of that
path, with or without an ending, absolute paths, backslashes, and the web UI's titles. An ending
counts where such a file is there; else it is left out of account, because old profiles name a
.ckpt where a .safetensors or a folder has taken its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from runai.engine.catalogue.layout import ENDINGS

_TITLE = re.compile(r"\s*\[([0-9a-fA-F]{8,64})\]$")


def without_ending(name: str) -> str:
    """A name without the ending that a model file has."""
    ending = next((end for end in ENDINGS if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def tails(name: str) -> list[str]:
    """All ends of a path: of `a/b/c` these are `a/b/c`, `b/c` and `c`."""
    parts = name.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def asked(name: str, bases: Iterable[Path]) -> tuple[list[str], str]:
    """What a request's name may be in the catalogue, best first, and the hash it states or ""."""
    name, hash_ = _split_title(name.strip())
    name = name.replace("\\", "/").removeprefix("./")
    for base in bases:
        name = name.removeprefix(f"{base}/").removeprefix("models/")
    name = name.rstrip("/")
    return list(dict.fromkeys([name, without_ending(name)])), hash_


def _split_title(name: str) -> tuple[str, str]:
    """The web UI's `name.safetensors [1234567890]`: the name, and the hash or nothing."""
    found = _TITLE.search(name)
    return (name[: found.start()], found[1].lower()) if found else (name, "")
