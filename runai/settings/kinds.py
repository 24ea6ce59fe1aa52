"""The types of values that settings have: how each is read from text, and what is allowed.

A reader raises ValueError, KeyError, RuntimeError or OSError for text that is no such value; who
asked says what is wrong. Standard library only.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNIX_SCHEME = "unix:"


@dataclass(frozen=True)
class Kind:
    """A type of value: how it is read from text (ValueError if it is none), what is allowed."""

    read: Callable[[str], Any]
    allowed: str
    word: str = ""  # stands for the value in help texts; empty: a switch, which needs none


def whole(least: int, most: int | None = None, word: str = "N") -> Kind:
    """A whole number within bounds, both inclusive."""

    def read(text: str) -> int:
        number = int(text)
        if number < least or (most is not None and number > most):
            raise ValueError
        return number

    bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
    return Kind(read, f"a whole number {bounds}", word)


def matching(pattern: str, allowed: str, word: str) -> Kind:
    """Text of a given form, in small letters."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text.lower()):
            raise ValueError
        return text.lower()

    return Kind(read, allowed, word)


def _read_text(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError
    return text


def _read_switch(text: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
        text.lower()
    ]


def _read_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 3600:
        raise ValueError
    return seconds


def _read_some_seconds(text: str) -> float:
    seconds = _read_seconds(text)
    if not seconds:
        raise ValueError
    return seconds


def _read_host(text: str) -> str:
    """A host's name or address. The original's README wrote a URL here: see `_without_scheme`."""
    host = text.strip("[]")
    if not host.isprintable() or re.search(r"^$|[\s/@]", host) or host.count(":") == 1:
        raise ValueError
    return host


def _read_unix(text: str) -> str:
    path = text.removeprefix(UNIX_SCHEME)
    if not path or path == text:
        raise ValueError
    return UNIX_SCHEME + str(Path(path).expanduser())


def _read_file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError
    return path


def _read_paths(text: str) -> tuple[Path, ...]:
    """One path or several, as in PATH."""
    paths = tuple(Path(part).expanduser() for part in text.split(os.pathsep) if part)
    if not paths:
        raise ValueError
    return paths


def as_text(value: Any) -> str:
    """A setting's value as it would be written on the command line."""
    if value is None:
        return "none"
    paths = value if isinstance(value, tuple) else (value,)
    return os.pathsep.join(map(str, paths))


SWITCH = Kind(_read_switch, "true or false")
SECONDS = Kind(_read_seconds, "a number of seconds from 0 to 3600", "SECONDS")
SOME_SECONDS = Kind(_read_some_seconds, "a number of seconds up to 3600, not 0", "SECONDS")
HOST = Kind(_read_host, "a host name or an address, without a port", "HOST")
FOLDERS = Kind(
    _read_paths, f"a folder that is there, or several with {os.pathsep!r} between them", "FOLDER"
)
UNIX = Kind(
    _read_unix, "unix: and the path of a socket, as in unix:/run/user/1000/runai", "unix:PATH"
)
FILE = Kind(_read_file, "a file that is there", "FILE")
DEVICE = matching(r"auto|cpu|mps|cuda(:\d+)?", "one of auto, cpu, cuda, cuda:N, mps", "DEVICE")
DTYPE = matching("auto|fp32|fp16|bf16", "one of auto, fp32, fp16, bf16", "DTYPE")
PREFER = matching(
    "balanced|throughput|latency", "one of balanced, throughput, latency", "PREFERENCE"
)
BACKEND = matching("auto|torch|openvino", "one of auto, torch, openvino", "BACKEND")
MISSING = matching("error|warn", "one of error, warn", "error|warn")
LOG_FORMAT = matching("human|json", "one of human, json", "human|json")
MODEL = Kind(_read_text, "a name from `runai models`, or default", "MODEL")
LEVEL = matching("debug|info|warning|error", "one of debug, info, warning, error", "LEVEL")


def is_loopback(host: str) -> bool:
    """Whether only programs on this computer can reach `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
