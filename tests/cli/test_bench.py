"""`runai bench`: what is run, what is drawn of it, and the page that it brings up to date."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT, read

from runai.cli import main, program
from runai.cli.measuring import drawing, page, programs
from runai.cli.measuring.programs import PROGRAMS, Program, Results

Capture = pytest.CaptureFixture[str]
LINES = {
    "plot": "speed",
    "title": "Speed",
    "x": "clients",
    "y": "pictures a second",
    "lines": {"ours": [[1, 2.0], [2, 3.5]], "theirs": [[1, 2.0], [2, 2.0]]},
}
TIME_LINE = {
    "plot": "who",
    "title": "Who",
    "x": "seconds",
    "rows": {"first": [[0.0, 1.0], [1.0, 2.5]], "second": [[1.0, 1.5]]},
}
COMPARED = {
    "name": "this, against that",
    "ours_s": 0.0123,
    "theirs_s": 2.5,
    "ratio": 0.005,
    "lowest": 0.004,
    "highest": 0.006,
}
# a benchmark that takes no time
SCRIPT = f"""\
print("something to read")
print({json.dumps(json.dumps(COMPARED))})
print("memory: 3 MiB a client")
print('{{"bytes": 3}}')
print("{{no JSON")
print({json.dumps(json.dumps(LINES))})
print({json.dumps(json.dumps(TIME_LINE))})
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of benchmarks: one that is well, one that fails, one that does not fit."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "well.py").write_text(SCRIPT)
    (folder / "ill.py").write_text("print('{\"a\": 1}')\nraise SystemExit(3)\n")
    rows = {
        "well": Program("does well", ("well.py",), memory_bytes=0),
        "ill": Program("fails", ("ill.py",), memory_bytes=0),
        "large": Program("does not fit", ("none.py",), memory_bytes=10**18),
    }
    for name in list(PROGRAMS):
        monkeypatch.delitem(PROGRAMS, name)
    for name, row in rows.items():
        monkeypatch.setitem(PROGRAMS, name, row)
    monkeypatch.setattr(programs, "folder", lambda: folder)
    return folder


def test_every_program_of_the_table_is_there_and_says_what_it_does() -> None:
    for row in PROGRAMS.values():
        text = (ROOT / "benchmarks" / row.words[0]).read_text(encoding="utf-8")
        flags = set(re.findall(r'add_argument\("(--[\w-]+)"', text))
        assert {word for word in row.words if word.startswith("--")} <= flags
        assert row.what


def test_the_programs_are_found_beside_the_package() -> None:
    assert programs.folder() == ROOT / "benchmarks"


def test_the_list_runs_nothing_and_says_what_does_not_fit(home: Path, capsys: Capture) -> None:
    assert main(["bench", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["well   does well", "ill    fails"]
    assert re.fullmatch(r"large  does not fit \(needs 1000.* of memory, .* are free\)", lines[2])


def test_what_is_named_is_run_and_shown_without_its_json(home: Path, capsys: Capture) -> None:
    assert main(["bench", "well"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "",
        "well: does well",
        "  something to read",
        "  memory: 3 MiB a client",
        "  {no JSON",
    ]


def test_all_that_fit_are_run_and_one_that_fails_is_told(home: Path, capsys: Capture) -> None:
    assert main(["bench"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"^large is left out: needs .*\.$", said, re.MULTILINE)
    assert "  memory: 3 MiB a client" in said
    assert "ill: fails\n  it ended with 3\n" in said


def test_what_is_for_a_gpu_is_left_out_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    programs._has_gpu.cache_clear()
    for_gpus = {name for name, row in PROGRAMS.items() if row.gpu}
    assert for_gpus == {name for name in PROGRAMS if name.endswith("-gpu")} != set()
    for name in for_gpus:
        assert PROGRAMS[name].obstacle() == "needs a GPU of NVIDIA's, and a torch for it"
    programs._has_gpu.cache_clear()


@pytest.mark.parametrize(("code", "said"), [(0, ", NVIDIA H100"), (9, "")])
def test_the_machine_is_told_with_its_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho NVIDIA H100\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    machine = page.machine()
    assert machine.endswith(said)
    assert ("NVIDIA" in machine) == bool(said)


def test_an_unknown_name_is_refused(home: Path, capsys: Capture) -> None:
    assert main(["bench", "nothing"]) == 2
    assert "There is no benchmark 'nothing'" in capsys.readouterr().err


def test_the_program_without_python_says_that_it_cannot(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(program, "is_packed", lambda: True)
    assert main(["bench"]) == 1
    assert "programs in Python, which are not here" in capsys.readouterr().err


def test_plots_are_drawn_where_they_are_wanted_and_readable_on_any_ground(
    home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "plots"
    assert main(["bench", "well", "--plots", str(folder)]) == 0
    drawn = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert set(drawn) == {"well-speed.svg", "well-who.svg"}
    for word in ("Speed", "clients", "pictures a second", "ours", "theirs"):
        assert f">{word}</text>" in drawn["well-speed.svg"]
    for word in ("Who", "seconds", "first", "second"):
        assert f">{word}</text>" in drawn["well-who.svg"]
    for text in drawn.values():
        assert "#000000" not in text and "fill: #ffffff" not in text
        assert drawing.INK in text


def test_the_same_figures_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        drawing.draw(LINES, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


PAGE = """\
Before.
<!-- measured: well -->
old
<!-- end -->
Between.
<!-- measured: large -->
kept
<!-- end -->
"""


def test_a_document_is_brought_up_to_date_in_its_marked_parts(home: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "performance.md").write_text(PAGE)
    assert main(["bench", "well", "--document", str(docs)]) == 0
    text = (docs / "performance.md").read_text()
    assert text.startswith("Before.\n<!-- measured: well -->\n")
    assert "| this, against that | 12.3 ms | 2.50 s | 0.01 (0.00 to 0.01) |" in text
    assert "memory: 3 MiB a client." in text
    assert "![Speed](plots/well-speed.svg)" in text
    assert "old" not in text
    assert text.endswith("Between.\n<!-- measured: large -->\nkept\n<!-- end -->\n")
    assert (docs / "plots" / "well-speed.svg").exists()


def test_what_is_not_measured_anew_stays_in_the_document(home: Path, tmp_path: Path) -> None:
    found = Results(lines=[("of old", {"bytes": 1})])
    page.write(tmp_path, {"large": page.as_json(found, "another machine")})
    assert main(["bench", "well", "--document", str(tmp_path)]) == 0
    kept = json.loads((tmp_path / "performance.json").read_text())
    assert list(kept) == ["well", "large"], "in the order of the table"
    assert kept["large"]["machine"] == "another machine"


def test_the_page_has_a_place_for_every_benchmark_and_shows_what_its_figures_say() -> None:
    text = read("docs/performance.md")
    known: dict[str, Any] = json.loads(read("docs/performance.json"))
    assert set(re.findall(r"<!-- measured: ([\w-]+) -->", text)) == set(PROGRAMS)
    assert page.fill(text, known) == text, "run runai bench --document docs/"
