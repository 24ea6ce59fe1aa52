"""Figures as SVG, by matplotlib: of what `benchmarks/plots.py` describes.

Readable on a light page and on a dark one: the ground is left open, and what is drawn is of a
middle brightness. The same figures give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runai.errors import DependencyMissing

INK = "#7a7a7a"  # 4.3 : 1 against white and against black alike
COLOURS = ("#3b7dd8", "#d9772b", "#3f9b52", "#b0539f", "#8d8030")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "runai",
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "grid.color"), INK),
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
SIZE = (6.4, 3.6)  # inches
Json = dict[str, Any]


def draw(figure: Json, path: Path) -> None:
    """Write one figure. Raises DependencyMissing without matplotlib."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyMissing(
            "Drawing plots needs the package matplotlib.",
            hint='Install it (pip install "runai[bench]"), or leave --plots out.',
        ) from error
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=SIZE, layout="constrained")
        axes = drawn.add_subplot()
        axes.set_title(figure["title"])
        axes.set_xlabel(figure["x"])
        KINDS["rows" if "rows" in figure else "lines"](axes, figure)
        drawn.savefig(path, format="svg", transparent=True, metadata={"Date": None})
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r" +$", "", text, flags=re.MULTILINE), encoding="utf-8")


def _lines(axes: Any, figure: Json) -> None:
    for (name, points), colour in zip(figure["lines"].items(), COLOURS, strict=False):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker="o", markersize=4, color=colour, label=name)
        axes.set_xticks(x)
    axes.set_ylabel(figure["y"])
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.legend(frameon=False)


def _time_line(axes: Any, figure: Json) -> None:
    """A row for each, every stretch of it a bar; the first on top."""
    for row, (stretches, colour) in enumerate(
        zip(figure["rows"].values(), COLOURS * len(figure["rows"]), strict=False)
    ):
        bars = [(begin, end - begin) for begin, end in stretches]
        axes.broken_barh(bars, (row - 0.35, 0.7), facecolor=colour, alpha=0.8, edgecolor=INK)
    axes.set_yticks(range(len(figure["rows"])), list(figure["rows"]))
    axes.invert_yaxis()


KINDS: dict[str, Callable[[Any, Json], None]] = {"lines": _lines, "rows": _time_line}
