"""Starts the server's program when nobody listens, and starts it again when it has died.

The program runs on its own, with `--timeout`: it ends by itself when nobody comes, and when its
last client has left. So nothing here ever ends it. It is started at most once
per `AGAIN_S` seconds, and never while the one started before is still there.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Callable, Mapping

from .connection import Revived

AGAIN_S = 5.0
TAIL_BYTES = 4096
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Krita's packages set these for themselves; another program would take Krita's libraries
NOT_FOR_OTHERS = ("PYTHON", "LD_LIBRARY_PATH", "LD_PRELOAD", "QT_", "QML")


def words_of(command: str) -> list[str]:
    """The program and its arguments; empty if there is no such program.

    `command`: a program on the PATH, a path, or the folder of the packaged server; words with
    spaces in them want quotes.
    """
    folder = Path(command).expanduser()
    is_folder = folder.is_absolute() and folder.is_dir()
    words = [str(folder / "runai")] if is_folder else shlex.split(command)
    found = shutil.which(str(Path(words[0]).expanduser())) if words else None
    return [found, *words[1:]] if found else []


def environment_for_others(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(NOT_FOR_OTHERS)}


class Starter:
    """See the module. Called by the connection's thread when nobody listens."""

    def __init__(
        self, command: str, host: str, port: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._command = command
        self._flags = ["--timeout", "--host", host, "--port", str(port)]
        self._where = f"{host}:{port}"
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._not_before = float("-inf")

    def __call__(self) -> Revived:
        """Start it if that is due; what is to be said of it."""
        if self._process is not None and self._process.poll() is None:
            return Revived(True, "The server is starting.")
        if self._clock() < self._not_before:
            return Revived(False, self._last_words())
        try:
            words = words_of(self._command)
        except ValueError as error:  # a quote without an end
            return Revived(False, f"The command to start the server is wrong: {error}.")
        if not words:
            return Revived(
                False,
                f"There is no server at {self._where}, and no program {self._command!r} to start.",
            )
        return self._start(words)

    def _start(self, words: list[str]) -> Revived:
        self._not_before = self._clock() + AGAIN_S
        self.close()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (the program's, for as long as it runs)
        try:
            self._process = subprocess.Popen(  # noqa: S603 (the command of the user's settings)
                [*words, *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                env=environment_for_others(os.environ),
                start_new_session=True,  # Krita's Ctrl-C, or its crash, is not the server's
            )
        except OSError as error:
            return Revived(False, f"{words[0]} cannot be started: {error.strerror}.")
        return Revived(True, "The server is starting.")

    def close(self) -> None:
        """Let the program go on by itself."""
        if self._process is not None:
            self._process.poll()  # if it has ended, the system may forget it
        if self._log is not None:
            self._log.close()
            self._log = None

    @property
    def pid(self) -> int | None:
        """Of the program that was started last."""
        return self._process.pid if self._process is not None else None

    def _last_words(self) -> str:
        """Why the program has ended, if it is known."""
        if self._process is None or self._log is None:
            return ""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - TAIL_BYTES))
        lines = self._log.read().decode("utf-8", "replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"The server has ended (code {self._process.returncode}). {said}".strip()
