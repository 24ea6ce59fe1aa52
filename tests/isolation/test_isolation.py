"""The server opens no network connection of its own and writes no file.

Proven by taking both away, and by watching its system calls. Needs root (for namespaces) and
strace; where they are missing the tests are skipped, and say so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny

pytestmark = pytest.mark.isolation
DRIVE = Path(__file__).parent / "drive.py"
ROOT = DRIVE.parents[2]
WRITING = "open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"


class Trace(NamedTuple):
    """What a whole run asked of the kernel: calls that connect or may write, with their times.

    `first`: the first picture was drawn; `last`: the server was about to be told to stop.
    """

    calls: list[tuple[float, str]]
    first: float
    last: float


def need(*programs: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("isolated")
    tiny.write_model(base / "v1" / "plain")
    # as after an installation: otherwise Python itself writes what it compiled
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(ROOT / "runai")], check=True)
    return base


def drive(base: Path, before: list[str], options: list[str], env: dict[str, str]) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/root"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **env,
    }
    done = subprocess.run(
        [*before, sys.executable, str(DRIVE), str(base), *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_it_serves_where_there_is_no_network(base: Path) -> None:
    need("unshare")
    said = drive(base, ["unshare", "-n"], [], {})
    assert "drawn" in said and "ended with 0" in said


def test_it_serves_from_a_root_that_cannot_be_written(base: Path, tmp_path: Path) -> None:
    need("unshare", "mount")
    scratch = tmp_path / "tmpfs"
    scratch.mkdir()
    script = (
        f"mount -t tmpfs tmpfs {scratch} && mount -o remount,bind,ro / && "
        f'! touch {tmp_path}/written 2>/dev/null && exec "$@"'
    )
    said = drive(base, ["unshare", "-m", "sh", "-c", script, "sh"], [], {"TMPDIR": str(scratch)})
    assert "drawn" in said and "ended with 0" in said


@pytest.fixture(scope="module")
def trace(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    need("strace")
    folder = tmp_path_factory.mktemp("strace")
    log, marks = folder / "calls", folder / "marks"
    watched = ["strace", "-f", "-ttt", "-qq", "-o", str(log), "-e", f"trace=connect,{WRITING}"]
    drive(base, [], ["--marks", str(marks), "--", *watched], {})
    lines = [re.match(r"\d+ +(\d+\.\d+) (.*)", line) for line in log.read_text().splitlines()]
    found = [(float(m[1]), m[2]) for m in lines if m]
    assert len(found) > 1000, "strace saw the server's imports"
    first, last = map(float, marks.read_text().split())
    assert found[0][0] < first < last < found[-1][0]
    return Trace(found, first, last)


def writes(trace: Trace) -> list[tuple[float, str]]:
    """The paths that were opened for writing, or made, with the time."""
    made = []
    for at, call in trace.calls:
        path = re.search(r'"([^"]*)"', call)
        if path is None or " = -1 " in call or call.startswith("connect("):
            continue
        if not call.startswith("open") or re.search(r"O_WRONLY|O_RDWR|O_CREAT", call):
            made.append((at, path[1]))
    return made


def test_it_connects_to_nobody(trace: Trace) -> None:
    connects = [call for _, call in trace.calls if call.startswith("connect(")]
    away = [c for c in connects if not re.search(r"AF_UNIX|AF_NETLINK|127\.0\.0\.|::1\b", c)]
    assert away == []


def test_it_writes_nothing(trace: Trace) -> None:
    control = (0.0, 'openat(AT_FDCWD, "/control", O_WRONLY|O_CREAT, 0666) = 3')
    seen = trace._replace(calls=[control, *trace.calls])
    assert [path for _, path in writes(seen)] == ["/control"]


def test_a_request_writes_nothing_at_all(trace: Trace) -> None:
    assert [path for at, path in writes(trace) if trace.first < at < trace.last] == []
