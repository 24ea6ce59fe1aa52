"""A record of the log as text: a line to read, or a JSON object.

Privacy. What clients write is private. Our own sentences hold none of it, and beside them stand
only the fields that `runai.jobs.journal.Fields` names. But an exception's text, or a
library's warning, may quote a prompt: of them only kinds and places are shown, and their
text where prompts may be shown too. Pure.
"""

from __future__ import annotations

import errno
import json
import logging
import re
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runai.cli.plain import plain
from runai.errors import RunAIError
from runai.jobs.journal import Fields

OURS = "runai"
# how Python writes a warning into the log
WARNING = re.compile(r"(.*?):(\d+): (\w+): ")
ALLOWED = frozenset(Fields.__annotations__)
SHOWN_CHARACTERS = 200  # of a field
SHOWN_DIGITS = 4  # of seconds


class Lines(logging.Formatter):
    """One line a record. `prompts`: whatever may hold one is shown; `tracebacks`: in full."""

    def __init__(self, *, prompts: bool, tracebacks: bool) -> None:
        super().__init__()
        self._prompts = prompts
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        sentence = plain(self._sentence(record))
        level, name = record.levelname.lower(), record.name
        fields = " ".join(f"{key}={_word(value)}" for key, value in _fields(record).items())
        parts = (_time(record), f"{level:7}", f"{name}:", sentence, fields, self._cause(record))
        line = " ".join(part for part in parts if part)
        return "\n".join([line, *self._traceback(record)])

    def _sentence(self, record: logging.LogRecord) -> str:
        if self._prompts or is_ours(record):
            return record.getMessage()
        return f"A library said something at {_origin(record)}."

    def _cause(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        return "" if error is None else plain(_kind(error, text=self._prompts))

    def _traceback(self, record: logging.LogRecord) -> list[str]:
        error = record.exc_info[1] if record.exc_info and self._tracebacks else None
        return [] if error is None else list(_frames(error, text=self._prompts))


class JsonLines(Lines):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._sentence(record),
            **_fields(record),
        }
        if cause := self._cause(record):
            said["error"] = cause
        if frames := self._traceback(record):
            said["traceback"] = frames
        return json.dumps(said)


def _origin(record: logging.LogRecord) -> str:
    """Where a record comes from; of a warning, where it was raised, and its kind."""
    raised = WARNING.match(record.getMessage()) if record.name == "py.warnings" else None
    if raised is None:
        return _place(record.pathname, record.lineno)
    return f"{_place(raised[1], int(raised[2]))} ({raised[3]})"


def is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == OURS


def _time(record: logging.LogRecord) -> str:
    """RFC 3339, UTC, to the millisecond."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    given: dict[str, Any] = getattr(record, "fields", {}) if is_ours(record) else {}
    return {key: _short(value) for key, value in given.items() if key in ALLOWED}


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, SHOWN_DIGITS)
    if isinstance(value, str) and len(value) > SHOWN_CHARACTERS:
        return f"{value[:SHOWN_CHARACTERS]}…"
    return value


def _word(value: Any) -> str:
    """As it is, or in quotes where it could be taken for something else."""
    text = str(value)
    is_word = text.isprintable() and not set(text) & set(" \"'=\\") and text != ""
    return text if is_word else json.dumps(text)


def _kind(error: BaseException, *, text: bool) -> str:
    """What kind of exception, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"at {_place(frames[-1].filename, frames[-1].lineno or 0)}" if frames else ""
    said = f": {error}" if text else ""
    parts = (type(error).__name__, _code(error), place)
    return " ".join(part for part in parts if part) + said


def _code(error: BaseException) -> str:
    """Ours, or the system's."""
    if isinstance(error, RunAIError):
        return f"[{error.code}]"
    number = error.errno if isinstance(error, OSError) else None
    name = errno.errorcode.get(number or 0)
    return f"[{name}]" if name else ""


def _place(path: str, line: int) -> str:
    """With as much of the path as tells which package it is in."""
    return f"{'/'.join(Path(path).parts[-3:])}:{line}"


def _frames(error: BaseException | None, *, text: bool) -> Iterator[str]:
    """Of an exception and what it came from, the first one last; code, but no values."""
    while error is not None:
        yield plain(_kind(error, text=text))
        for frame in traceback.format_tb(error.__traceback__):
            yield from frame.rstrip().splitlines()
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
