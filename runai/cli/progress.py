"""What `runai generate` shows on stderr while it waits: states as lines, steps as a bar."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm

from runai.cli.plain import plain
from runai.schema.events import Accepted, Completed, JobEvent, Loading, Progress

tqdm.monitor_interval = 0  # or tqdm starts a thread of its own


class Display:
    """Give it every event; leave it as a context manager. The bar is for terminals only."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def show(self, event: JobEvent) -> None:
        if isinstance(event, Accepted) and event.position:
            _say(f"Waiting: {event.position} request(s) before this one.")
        elif isinstance(event, Loading):
            _say(f"Loading {plain(event.model)}.")
        elif isinstance(event, Progress):
            self._advance(event.step, event.total)
        elif isinstance(event, Completed) and self._bar is not None:
            self._bar.update(self._total - self._bar.n)  # the last progress may be skipped

    def _advance(self, step: int, total: int) -> None:
        if self._bar is None:
            # every event is drawn: the service sends only as many as are read
            bar: tqdm[Any] = tqdm(
                total=total, unit="step", mininterval=0, disable=None, file=sys.stderr
            )
            self._bar, self._total = bar, total
        self._bar.update(step - self._bar.n)

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _say(line: str) -> None:
    print(line, file=sys.stderr)
