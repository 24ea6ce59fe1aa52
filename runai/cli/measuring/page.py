"""docs/performance.md: what was measured, as tables and plots, between marks in the prose.

The figures lie beside the page in `performance.json`, by program, so that one of them can be
measured anew and the others stay. Pure but for `write`, which reads and writes these files.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runai.cli.measuring import drawing
from runai.cli.measuring.programs import PROGRAMS, Results

PAGE, FIGURES, PLOTS = "performance.md", "performance.json", "plots"
MARKED = re.compile(r"(<!-- measured: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Json = dict[str, Any]


def machine() -> str:
    """What figures are of: this machine, and how busy it is."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line for line in lines if line.startswith("model name")).split(": ", 1)[1]
    except (OSError, StopIteration, IndexError):  # not Linux, or another kind of processor
        pass
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {os.cpu_count()} cores{load}{_gpu()}"


def _gpu() -> str:
    """The first one, by the name that its driver gives it."""
    words = [shutil.which("nvidia-smi") or "", "--query-gpu=name", "--format=csv,noheader"]
    if not words[0]:
        return ""
    said = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    names = said.stdout.splitlines()
    return f", {names[0].strip()}" if names and not said.returncode else ""


def as_json(found: Results, where: str) -> Json:
    """What is kept of a program."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    said = [{"line": line, **figures} for line, figures in found.lines]
    return {"machine": where, "date": today, "results": said, "plots": found.plots}


def write(folder: Path, measured: dict[str, Json]) -> None:
    """Put figures into a folder: into the JSON, the page if it is there, and the plots."""
    kept = folder / FIGURES
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    known |= measured
    known = {name: known[name] for name in PROGRAMS if name in known}
    kept.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / PLOTS).mkdir(exist_ok=True)
    for name, of_program in measured.items():
        for figure in of_program["plots"]:
            drawing.draw(figure, folder / PLOTS / plot_name(name, figure))
    page = folder / PAGE
    if page.exists():
        page.write_text(fill(page.read_text(encoding="utf-8"), known), encoding="utf-8")


def plot_name(program: str, figure: Json) -> str:
    return f"{program}-{figure['plot']}.svg"


def fill(text: str, known: dict[str, Json]) -> str:
    """A page with the marked part of each program that there are figures of brought up to date."""

    def filled(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name not in known:
            return match[0]
        return "\n".join((begin, *_part(name, known[name]), "", end))

    return MARKED.sub(filled, text)


def _part(name: str, of_program: Json) -> Iterator[str]:
    compared = [one for one in of_program["results"] if "ratio" in one]
    if compared:
        yield "| measured | ours | against | ratio (lowest to highest) |"
        yield "| --- | --- | --- | --- |"
        yield from map(_row, compared)
        yield ""
    for one in of_program["results"]:
        if "ratio" not in one:
            yield f"{one['line']}."
            yield ""
    yield f"({of_program['date']}: {of_program['machine']}.)"
    for figure in of_program["plots"]:
        yield ""
        yield f"![{figure['title']}]({PLOTS}/{plot_name(name, figure)})"


def _row(one: Json) -> str:
    ratio = f"{one['ratio']:.2f} ({one['lowest']:.2f} to {one['highest']:.2f})"
    return f"| {one['name']} | {_ms(one['ours_s'])} | {_ms(one['theirs_s'])} | {ratio} |"


def _ms(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
