"""Settings out of the places where they are given: flags, environment, file, defaults."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runai.errors import InvalidSetting
from runai.settings.kinds import FOLDERS, HOST, as_text
from runai.settings.table import ROWS, Row, Settings

CONFIG_FILE = "runai/runai.toml"
TOKEN_VARIABLE = "RUNAI_TOKEN"  # noqa: S105 (its name)
MIN_TOKEN, MAX_TOKEN = 16, 1024


@dataclass(frozen=True)
class _Found:
    """A value as it was given, and where."""

    value: Any
    place: str


def load(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    config: Path | None = None,
    warn: Callable[[str], None] = lambda line: None,
) -> Settings:
    """The settings in force. `flags`: by field name, None where not given.

    `config`: the TOML file; without it $XDG_CONFIG_HOME/runai/runai.toml is read if there.
    Raises InvalidSetting. `warn` is called with a line on what is taken otherwise than given.
    """
    environ = os.environ if environ is None else environ
    given = {**_from_file(config, environ), **_from_environ(environ), **_from_flags(flags or {})}
    values = {name: _read(ROWS[name], found, warn) for name, found in given.items()}
    settings = Settings(**values, token=read_token(values.get("token_file"), environ))
    settings.check_reach(given["host"].place if "host" in given else "")
    return settings


def read_token(
    file: Path | None, environ: Mapping[str, str], *, place: str = "--token-file"
) -> str:
    """The token in a file, else in RUNAI_TOKEN, without white space around; empty: there is none.

    Raises InvalidSetting, and never shows what it read.
    """
    try:
        text = environ.get(TOKEN_VARIABLE, "") if file is None else _text_of(file)
    except (OSError, ValueError) as error:
        raise InvalidSetting(
            f"{place}: {file} cannot be read: {getattr(error, 'strerror', None) or 'no text'}.",
            hint="Write one line of text into it.",
        ) from None
    token = text.strip()
    if file is None and not token:
        return ""
    if not MIN_TOKEN <= len(token) <= MAX_TOKEN or not token.isprintable():
        raise InvalidSetting(
            f"{TOKEN_VARIABLE if file is None else file} holds no token: one line of "
            f"{MIN_TOKEN} to {MAX_TOKEN} characters.",
            hint="Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'.",
        )
    return token


def _text_of(file: Path) -> str:
    """What is in a file, as much as a token may have; a pipe's other end is not waited for."""
    if not file.is_file():
        raise FileNotFoundError(errno.ENOENT, "It is not a file", str(file))
    with file.open(encoding="utf-8") as opened:
        return opened.read(2 * MAX_TOKEN)


def _from_flags(flags: Mapping[str, Any]) -> dict[str, _Found]:
    given = {name: value for name, value in flags.items() if name in ROWS and value is not None}
    return {name: _Found(value, ROWS[name].flag) for name, value in given.items()}


def _from_environ(environ: Mapping[str, str]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for name, row in ROWS.items():
        for variable in (row.variable, row.also):
            if variable is not None and environ.get(variable):
                found.setdefault(name, _Found(environ[variable], variable))
    return found


def _from_file(config: Path | None, environ: Mapping[str, str]) -> dict[str, _Found]:
    path = config or _standard_file(environ)
    if path is None:
        return {}
    content = _parse(path)
    for key in content:
        if key not in ROWS:
            raise InvalidSetting(
                f"{path}: there is no setting {key!r}.", hint=f"Use one of: {', '.join(ROWS)}."
            )
    return {key: _Found(value, f"{path}, {key}") for key, value in content.items()}


def _standard_file(environ: Mapping[str, str]) -> Path | None:
    home = environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    path = Path(home, CONFIG_FILE)
    return path if path.is_file() else None


def _parse(path: Path) -> dict[str, Any]:
    import tomllib  # only where there is a file: its import delays listening

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSetting(
            f"{path} cannot be read: {error.strerror}.", hint="Correct --config."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidSetting(f"{path} is not TOML: {error}.", hint="Correct the file.") from None


def _read(row: Row, found: _Found, warn: Callable[[str], None]) -> Any:
    if not isinstance(found.value, (str, int, float, Path)):
        raise _wrong(row, found)
    text = as_text(found.value)
    if row.kind is HOST:
        text = _without_scheme(text, found.place, warn)
    try:
        value = row.kind.read(text)
    # RuntimeError: ~ of somebody who has no home; OSError: no name is that long
    except (ValueError, KeyError, RuntimeError, OSError):
        raise _wrong(row, found) from None
    if row.kind is FOLDERS and not all(map(_is_folder, value)):
        raise _wrong(row, found)
    return value


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # it may not be looked at, or no name is that long
        return False


def _without_scheme(text: str, place: str, warn: Callable[[str], None]) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator:
        return text
    host = rest.rstrip("/")
    warn(f"{place}: {scheme}:// means nothing here, the host {host} is taken.")
    return host


def _wrong(row: Row, found: _Found) -> InvalidSetting:
    return InvalidSetting(
        f"{found.place}: {str(found.value)!r} is not {row.kind.allowed}.",
        hint=f"Correct {found.place}.",
    )
