"""The log: one line a record on stderr, nothing on disk, no prompts."""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class OneLine(logging.Formatter):
    """A record as one line; an exception as its type and text, at level debug in full."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__(FORMAT)
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        if self._tracebacks:
            return super().format(record)
        short = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None})
        cause = record.exc_info[1] if record.exc_info else None
        text = super().format(short) + (f" {type(cause).__name__}: {cause}" if cause else "")
        return " | ".join(text.splitlines())


def start(level: str) -> None:
    """Send records of `level` and above to stderr, warnings of libraries among them."""
    output = logging.StreamHandler()
    output.setFormatter(OneLine(tracebacks=level == "debug"))
    logging.basicConfig(level=level.upper(), handlers=[output])
    logging.captureWarnings(True)
