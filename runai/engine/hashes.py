"""Hashes of model files, computed in the background.

sha256, and of it the web UI's short hash (its first ten digits; the "AutoV2" of model sites).
Rules: a hash is computed when somebody first asks for it, by one thread that is started then
and ends when nothing is left to do; `stop` ends it between two blocks and joins it. Results are
kept in memory with the stamp of the file they belong to: nothing is written, and nobody waits.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from pathlib import Path

BLOCK_BYTES = 2**22
log = logging.getLogger(__name__)
Stamp = tuple[int, int]


def short_hash(sha256: str) -> str:
    """The web UI's short hash."""
    return sha256[:10]


class Hashes:
    """The hashes that are known, and the thread that computes those that were asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._known: dict[tuple[Path, Stamp], str | None] = {}  # None: it cannot be computed
        self._wanted: dict[tuple[Path, Stamp], None] = {}
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def known(self, path: Path, stamp: Stamp) -> str | None:
        """The sha256 of a file with this stamp, if it has been computed."""
        with self._lock:
            return self._known.get((path, stamp))

    def ask(self, path: Path, stamp: Stamp) -> str | None:
        """As `known`; an unknown one is computed in the background."""
        key = (path, stamp)
        with self._lock:
            if key in self._known or self._stopped.is_set():
                return self._known.get(key)
            self._wanted[key] = None
            if self._thread is None:
                self._thread = self._started()
        return None

    def _started(self) -> threading.Thread | None:
        """With the lock held; None where no thread can be had, until somebody asks again."""
        thread = threading.Thread(target=self._run, name="hashes")
        try:
            thread.start()
        except RuntimeError:  # what Python raises for want of memory, or past a limit of threads
            log.warning("No thread could be started for hashes.")
            return None
        return thread

    def join(self) -> None:
        """Wait until everything that was asked for is known."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def stop(self) -> None:
        """End the thread at the next block and wait for it. Nothing is computed any more."""
        self._stopped.set()
        self.join()

    def _run(self) -> None:
        while (key := self._next()) is not None:
            digest = self._digest(*key)
            with self._lock:
                self._known[key] = digest

    def _next(self) -> tuple[Path, Stamp] | None:
        """The next to be computed; None, and the thread is over, when there is none."""
        with self._lock:
            if self._stopped.is_set() or not self._wanted:
                self._thread = None
                return None
            key = next(iter(self._wanted))
            del self._wanted[key]
            return key

    def _digest(self, path: Path, stamp: Stamp) -> str | None:
        """None for a file that cannot be read or is not the one with this stamp any more."""
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    if self._stopped.is_set():
                        return None
                    digest.update(block)
                status = os.fstat(file.fileno())
        except OSError:
            return None
        return digest.hexdigest() if (status.st_mtime_ns, status.st_size) == stamp else None
