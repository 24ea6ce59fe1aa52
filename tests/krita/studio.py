"""A Krita of its own: a clean home, a display nobody sees, the plugin, and the driver that uses it.

Everything that is started here is ended here by its process id, but for the server that the plugin
starts: that one has to end by itself.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KRITA_S = 400
SHOTS = "RUNAI_KRITA_SHOTS"  # a variable: make the screenshots for the documentation too
ENDS_WITHIN_S = 30
SCREEN = "1280x800x24"
PLUGINS = (ROOT / "client_example" / "krita", ROOT / "tests" / "krita" / "driver")
KRITARC = """HideSplash=true
[python]
enable_runai_krita=true
enable_runai_krita_driver=true
[runai_krita]
port={port}
command={command}
"""


@dataclass
class Played:
    """What came of a session: per scene its facts, or an error; and how Krita ended."""

    out: Path
    code: int
    said: str
    report: dict[str, dict[str, Any]]

    def facts(self, scene: str) -> dict[str, Any]:
        if scene not in self.report:
            raise AssertionError(f"Krita ended with {self.code} before {scene}: {self.said}")
        outcome = self.report[scene]
        assert "error" not in outcome, outcome["error"]
        return dict(outcome["facts"])


def environment(home: Path) -> dict[str, str]:
    """No other Python on the PATH, no settings of whoever runs the tests."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


def runai(*words: str) -> list[str]:
    return [sys.executable, "-m", "runai", *words]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def make_home(folder: Path) -> Path:
    home = folder / "home"
    plugins = home / ".local" / "share" / "krita" / "pykrita"
    for source in PLUGINS:
        shutil.copytree(
            source, plugins, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    command = f"/usr/bin/env PYTHONPATH={ROOT} {' '.join(runai())}"
    (home / ".config").mkdir()
    (home / ".config" / "kritarc").write_text(KRITARC.format(port=free_port(), command=command))
    return home


@contextmanager
def display() -> Iterator[str]:
    """A display of Xvfb's choice."""
    reading, writing = os.pipe()
    words = ["Xvfb", "-displayfd", str(writing), "-screen", "0", SCREEN, "-nolisten", "tcp"]
    server = subprocess.Popen(words, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    try:
        with os.fdopen(reading) as said:
            yield f":{said.readline().strip()}"
    finally:
        server.kill()
        server.wait()


def play(folder: Path, out: Path, naive_port: int) -> Played:
    """A whole session, from Krita's start to its end."""
    home, runtime = make_home(folder), folder / "runtime"
    runtime.mkdir(mode=0o700)
    own = {
        "QT_QPA_PLATFORM": "xcb",
        "XDG_RUNTIME_DIR": str(runtime),
        "RUNAI_DRIVER_OUT": str(out),
        "RUNAI_DRIVER_NAIVE_PORT": str(naive_port),
        "RUNAI_DRIVER_SHOTS": os.environ.get(SHOTS, ""),
    }
    log = folder / "krita.log"
    with display() as shown, log.open("w") as said:
        krita_environment = {**environment(home), **own, "DISPLAY": shown}
        del krita_environment["PYTHONPATH"]
        krita = subprocess.Popen(
            ["krita", "--nosplash"], env=krita_environment, stdout=said, stderr=said
        )
        try:
            code = krita.wait(KRITA_S)
        except subprocess.TimeoutExpired:
            krita.kill()
            code = krita.wait()
    report = out / "report.json"
    scenes = json.loads(report.read_text()) if report.exists() else {}
    return Played(out, code, log.read_text()[-2000:], scenes)


def ends_by_itself(pid: int) -> bool:
    """Whether the process is gone in time; one that is not is ended."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        gone = bool(poll.poll(ENDS_WITHIN_S * 1000))
        if not gone:
            signal.pidfd_send_signal(watched, signal.SIGKILL)
        return gone
    finally:
        os.close(watched)


class Drawing:
    """`runai generate`, with a server that stays there for all of them."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port

    def __call__(self, name: str, prompt: str, *options: str) -> Path:
        path = self._folder / f"expected-{name}.png"
        words = runai("generate", prompt, "-o", str(path), "--port", str(self._port), *options)
        subprocess.run(words, env=environment(self._folder), check=True, timeout=120)
        return path


@contextmanager
def drawing(folder: Path) -> Iterator[Drawing]:
    server = subprocess.Popen(
        runai("--keep-alive", "--port", "0"),
        env=environment(folder),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    try:
        listening = next(line for line in server.stderr if "Listening on" in line)
        yield Drawing(folder, int(listening.rpartition("port ")[2].partition(",")[0]))
    finally:
        server.terminate()
        server.communicate()
