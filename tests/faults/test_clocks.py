"""A clock that is set changes nothing: the time of day is asked for nowhere.

Waiting and measuring go by the monotonic clock, in Python's own locks, conditions and
queues as well (CPython uses `CLOCK_MONOTONIC` for them where the system lets it).
"""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Iterator
from pathlib import Path

import headers

from runai.engine.catalogue import Catalogue

ROOT = Path(__file__).parents[2] / "runai"
DAY_S = 86_400.0
OF_DAY = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
# when the folders were looked at, beside the times that they themselves have: see below
KNOWN = {("engine/catalogue/snapshot.py", "time.time_ns")}


def asked() -> Iterator[tuple[str, str]]:
    """Where the time of day is asked for: file, call."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                named = {alias.name for alias in node.names} & OF_DAY["time"]
                yield from ((str(path.relative_to(ROOT)), f"time.{name}") for name in named)
            elif isinstance(node, ast.Attribute) and node.attr in OF_DAY.get(_name(node), ()):
                yield str(path.relative_to(ROOT)), f"{_name(node)}.{node.attr}"


def _name(node: ast.Attribute) -> str:
    return node.value.id if isinstance(node.value, ast.Name) else ""


def test_the_time_of_day_is_asked_for_nowhere_but_where_files_have_it() -> None:
    assert set(asked()) == KNOWN


def test_files_are_found_whatever_day_their_folder_says_it_is(tmp_path: Path) -> None:
    """As when the clock was set in between, or the folder lies on another computer."""
    folder = tmp_path / "v1"
    catalogue = Catalogue([tmp_path])
    for number, ahead_s in enumerate((0.0, DAY_S, -DAY_S, -40 * 365 * DAY_S)):
        headers.write(folder / f"{number}.safetensors", headers.rows("sd1"))
        now = time.time() + ahead_s
        os.utime(folder, (now, now))
        assert catalogue.find(f"v1/{number}").arch == "sd1"
        assert len(catalogue.infos()) == number + 1
