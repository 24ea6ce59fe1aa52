"""A folder in which a page's commands do what they say, and reach nothing outside of it.

It looks like the project's own folder after the installation: `runai` is the real program, but that
the scripted engine draws; `bin/setup.sh` finds everything installed; `systemctl` says yes. Home,
settings and models are the sandbox's own, and so is the port.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import children
from documents import ROOT
from PIL import Image

SCRIPTED = """\
import sys
from runai.cli import main
from runai.testing.scripted import ScriptedEngine
sys.exit(main(sys.argv[1:], make_engine=lambda: ScriptedEngine(models_on_disk=["v1/shapes"])))
"""
PATIENCE_S = 60.0
SERVER = re.compile(r"runai( serve)?( --(?!help|version).*)?")
YES = "#!/bin/sh\n"
# other computers' names, an address that others could reach, the port that everybody uses
HERE = {
    r"0\.0\.0\.0": "127.0.0.1",
    r"gpu\.lan": "localhost",
    r"(?<= )50006": "$RUNAI_PORT",
    r"(client\.py \"[^\"]*\" \S+)$": r"\1 localhost $RUNAI_PORT",
}


class Sandbox:
    """`run` commands in it, one after another; `close` it afterwards."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: children.Child | None = None
        self._furnish()
        own = ("RUNAI_", "HF_", "BASE_DIR", "XDG_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        self._environ = kept | {
            "PATH": f"{folder / '.venv' / 'bin'}:/usr/bin:/bin",
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "PYTHONPATH": str(ROOT),
            "RUNAI_PORT": _free_port(),
        }

    def _furnish(self) -> None:
        shutil.copytree(ROOT / "bin", self._folder / "bin")
        (self._folder / "client_example").symlink_to(ROOT / "client_example")
        (self._folder / "stablediffusion").mkdir()
        Image.new("L", (64, 64), 255).save(self._folder / "mask.png")
        programs = self._folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "scripted.py").write_text(SCRIPTED)
        self._write(programs / "runai", f'{YES}exec "{sys.executable}" {programs}/scripted.py "$@"')
        self._write(programs / "python", f'{YES}exec "{sys.executable}" "$@"')
        self._write(programs / "systemctl", YES)
        self._write(self._folder / "bin" / "setup.sh", YES)

    def _write(self, program: Path, text: str) -> None:
        program.write_text(text)
        program.chmod(0o755)

    def run(self, command: str) -> None:
        """Until it has ended well; one that serves, until it listens: it goes on meanwhile."""
        for there, here in HERE.items():
            command = re.sub(there, here, command)
        if SERVER.fullmatch(command):
            self._serve(command)
            return
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self._folder,
            env=self._environ,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"

    def _serve(self, command: str) -> None:
        self.close()
        words = ["/bin/sh", "-c", f"exec {command}"]
        server = children.Child(words, cwd=self._folder, env=self._environ)
        try:
            server.wait_for(r"[Ll]istening on ")
        except AssertionError:
            server.close()
            raise
        self._server = server

    def close(self) -> None:
        """Have the server end, which it must do well."""
        if self._server is None:
            return
        ended, self._server = self._server, None
        try:
            ended.signal(signal.SIGTERM)
            assert ended.end() == 0, ended.seen
        finally:
            ended.close()


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])
