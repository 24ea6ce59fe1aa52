"""The log: records to stderr while a server runs, nothing on disk, no prompts.

`log_lines` says what a record looks like and what is left out of it, `log_output` how it gets
out without anybody waiting. This module puts them to work, and sees to it that what Python and
the libraries would print past the log goes through it as well.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from runai.cli.log_lines import JsonLines, Lines, is_ours
from runai.cli.log_output import Output

FORMATS = {"human": Lines, "json": JsonLines}
log = logging.getLogger("runai")


class _ToStderr(logging.StreamHandler[Output]):
    """Tells of lost lines as soon as there is somebody to tell."""

    def emit(self, record: logging.LogRecord) -> None:
        lost, self.stream.lost = self.stream.lost, 0
        if lost:
            said = f"Lines that were lost, because nobody read the log: {lost}."
            notice = {"name": "runai", "levelno": logging.WARNING, "levelname": "WARNING"}
            super().emit(logging.makeLogRecord({**notice, "msg": said}))
            self.stream.lost += lost - 1 if self.stream.lost else 0
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """A record that cannot be written: logging would print all that is in it."""
        self.stream.lost += 1

    def close(self) -> None:
        self.acquire()
        try:
            self.stream.close()
        finally:
            self.release()
        super().close()


@contextmanager
def kept(level: str, format_: str = "human", *, prompts: bool = False) -> Iterator[None]:
    """Within, records of `level` and above go to stderr, warnings of libraries among them."""
    output = _ToStderr(Output.of_process())
    output.setFormatter(FORMATS[format_](prompts=prompts, tracebacks=level == "debug"))
    # what libraries have to say for debugging would be lines without a text
    output.addFilter(lambda r: prompts or is_ours(r) or r.levelno >= logging.WARNING)
    root, level_before = logging.getLogger(), logging.getLogger().level
    root.addHandler(output)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    try:
        with _hooked(threading, "excepthook", _thread_died), _hooked(sys, "unraisablehook", _lost):
            yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level_before)
        root.removeHandler(output)
        output.close()


def adopt_libraries() -> None:
    """Those that print what they log pass it on instead; call it once they are imported."""
    known = list(logging.root.manager.loggerDict.values())
    for library in (one for one in known if isinstance(one, logging.Logger)):
        for printing in [one for one in library.handlers if type(one) is logging.StreamHandler]:
            library.removeHandler(printing)
            library.propagate = True


@contextmanager
def _hooked(module: Any, name: str, ours: Callable[[Any], None]) -> Iterator[None]:
    """Python's way of printing an exception replaced, unless somebody else did so already."""
    before = getattr(module, name)
    if before is getattr(module, f"__{name}__"):
        setattr(module, name, ours)
    try:
        yield
    finally:
        setattr(module, name, before)


def _thread_died(args: threading.ExceptHookArgs) -> None:
    name = args.thread.name if args.thread is not None else "a thread"
    log.critical("%s ended by a fault of ours.", name, exc_info=args.exc_value)


def _lost(args: Any) -> None:
    log.error("An exception could not be raised.", exc_info=args.exc_value)
