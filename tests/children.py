"""Python programs as child processes: how they begin, what they say and how they end."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

PATIENCE_S = 30.0
LONG_S = 150.0  # for what imports torch, on a machine with other work to do
ROOT = Path(__file__).parents[1]


class Child:
    """A process of ours; its stderr is read line by line. `options`: of `subprocess.Popen`."""

    def __init__(self, words: list[str], *, patience_s: float = PATIENCE_S, **options: Any) -> None:
        piped = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(words, text=True, **({"cwd": ROOT} | piped | options))
        # a child that hangs fails its test instead of hanging it
        self._alarm = threading.Timer(patience_s, self.process.kill)
        self._alarm.start()
        self.seen = ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match in the lines of stderr from here on."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.seen += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"{pattern!r} was never said, but: {self.seen}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def tell(self) -> None:
        """Let the child's script go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        out, err = self.process.communicate()
        self.out = out
        self.seen += err or ""
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._alarm.cancel()
        self._alarm.join()


def python(*words: str, **options: Any) -> Child:
    """Python with these words."""
    return Child([sys.executable, *words], **options)
