"""How the server is to run, as one frozen `Settings`.

Each field below is one row of the one table of settings: its name gives the flag
(`--max-steps`), the environment variable (`RUNAI_MAX_STEPS`) and the key in the TOML file
(`max_steps`); its metadata say which values are allowed and what it is for. `load` takes each
value from the first place that has it: flags, environment, file, default. A value is read the
same way wherever it comes from, and a wrong one is an `InvalidSetting` that names the place.

Standard library only, and little of it: this is imported before the server listens. Knows
nothing of what the settings are used for.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from runai.errors import InvalidSetting

ACCEPT_ATTEMPTS = 3
ATTEMPT_S = 3.0
CONFIG_FILE = "runai/runai.toml"
MODEL_BASE_PATH = Path("~/stablediffusion").expanduser()
MIB = 1024 * 1024
TOKEN_VARIABLE = "RUNAI_TOKEN"  # noqa: S105 (its name)
UNIX_SCHEME = "unix:"
MIN_TOKEN, MAX_TOKEN = 16, 1024


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
MISSING = matching("error|warn", "one of error, warn", "error|warn")
LOG_FORMAT = matching("human|json", "one of human, json", "human|json")
LEVEL = matching("debug|info|warning|error", "one of debug, info, warning, error", "LEVEL")


def _row(default: Any, kind: Kind, help_: str, **more: str) -> Any:
    return field(default=default, metadata={"kind": kind, "help": help_, **more})


@dataclass(frozen=True)
class Settings:
    """Every setting, valid and complete."""

    host: str = _row("localhost", HOST, "where to listen, or which server to ask")
    port: int = _row(50006, whole(0, 65535, "PORT"), "TCP port; 0 takes any free one")
    listen: str | None = _row(
        None, UNIX, "a Unix socket to listen on, or to ask, instead of host and port"
    )
    token_file: Path | None = _row(
        None, FILE, "the token that clients must show, or that is shown; else RUNAI_TOKEN"
    )
    tls_cert: Path | None = _row(
        None, FILE, "the server's certificate (PEM): to show, or the only one to believe"
    )
    tls_key: Path | None = _row(None, FILE, "the key (PEM) of the server's certificate")
    tls_client_ca: Path | None = _row(
        None, FILE, "let in only clients with a certificate that these (PEM) vouch for"
    )
    tls_client_cert: Path | None = _row(
        None, FILE, "to ask with: the certificate and key (PEM, one file) to show to a server"
    )
    tls: bool = _row(
        False, SWITCH, "to ask with: TLS, believing the certificates that this computer trusts"
    )
    timeout: bool = _row(False, SWITCH, "give up when no client comes: 3 attempts of 3 seconds")
    packet_size: int = _row(1024, whole(16, MIB, "BYTES"), "bytes a packet, on both sides")
    model_base_path: tuple[Path, ...] = _row(
        (MODEL_BASE_PATH,),
        FOLDERS,
        f"the folder of models, or several with {os.pathsep!r} between them",
        also="BASE_DIR",
    )
    max_client_connections: int = _row(32, whole(1, 4096), "clients at the same time")
    max_connections_per_peer: int = _row(
        16, whole(1, 4096), "those of one address; all of this computer count as one"
    )
    keep_alive: bool = _row(False, SWITCH, "go on when the last client has left")
    idle_exit_s: float = _row(
        0.0, SECONDS, "end when no client was there so long, and not before; 0: see --keep-alive"
    )
    max_message_bytes: int = _row(64 * MIB, whole(1024, word="BYTES"), "largest message read")
    max_json_depth: int = _row(32, whole(8, 256), "how deeply a message may be nested")
    max_input_pixels: int = _row(
        4096 * 4096, whole(64 * 64, 2**27), "largest picture read: width × height"
    )
    max_pixels: int = _row(2048 * 2048, whole(64 * 64), "largest picture drawn: width × height")
    max_steps: int = _row(200, whole(1, 1000), "most steps a request")
    max_images: int = _row(16, whole(1, 64), "most images a request")
    max_queued: int = _row(256, whole(1), "requests that may wait")
    max_queued_per_client: int = _row(
        64, whole(1), "requests of one client whose answers it has not read"
    )
    max_unread_bytes: int = _row(
        128 * MIB, whole(1, word="BYTES"), "of finished pictures; past it, nothing more is drawn"
    )
    auth_timeout_s: float = _row(
        10.0, SOME_SECONDS, "what a client may take to agree on TLS and to show its token"
    )
    message_timeout_s: float = _row(60.0, SOME_SECONDS, "what a message may take to come")
    idle_timeout_s: float = _row(0.0, SECONDS, "leave a client that asks nothing so long; 0: never")
    resume_s: float = _row(
        30.0,
        SECONDS,
        "what a client whose connection broke may take to come back; 0: nothing is kept",
    )
    device: str = _row("auto", DEVICE, "what to draw on: auto, cpu, cuda, cuda:N or mps")
    dtype: str = _row("auto", DTYPE, "number format: auto, fp32, fp16 or bf16")
    max_batch: int = _row(0, whole(0, 64), "pictures drawn in one batch; 0: chosen by the device")
    max_memory: int = _row(
        0, whole(0, word="BYTES"), "most memory for models and drawing; 0: all there is"
    )
    idle_unload_s: float = _row(0.0, SECONDS, "let go of what was not used so long; 0: never")
    nsfw_filter_missing: Literal["error", "warn"] = _row(
        "error", MISSING, "NSFW filter asked for and not there: error, or warn and draw"
    )
    watermark_missing: Literal["error", "warn"] = _row(
        "error", MISSING, "watermark asked for and not possible: error, or warn and draw"
    )
    grace_s: float = _row(5.0, SECONDS, "what is being drawn may take so long when told to stop")
    insecure: bool = _row(
        False, SWITCH, "allow other computers without a token or without TLS: see docs/security.md"
    )
    allow_convert: bool = _row(False, SWITCH, "let clients convert models, which writes files")
    log_level: str = _row("info", LEVEL, "debug, info, warning or error")
    log_format: Literal["human", "json"] = _row(
        "human", LOG_FORMAT, "lines to read, or one JSON object a line"
    )
    log_prompts: bool = _row(False, SWITCH, "let the log show prompts, which are private")
    token: str = field(default="", repr=False)  # no row: it is never on a command line

    @property
    def unix_path(self) -> Path | None:
        """The Unix socket that stands in for host and port."""
        return Path(self.listen.removeprefix(UNIX_SCHEME)) if self.listen is not None else None

    @property
    def is_local(self) -> bool:
        """Whether the server is one that only programs on this computer can reach."""
        return self.listen is not None or is_loopback(self.host)

    def at(self, address: str, *, is_path: bool) -> Settings:
        """The same for an address, or a Unix socket's path, that somebody else has chosen."""
        return replace(self, listen=UNIX_SCHEME + address if is_path else None, host=address)

    def check_reach(self, place: str) -> None:
        """Other computers come in, or are asked, with a token and TLS. Raises InvalidSetting.

        `place`: who said where.
        """
        if self.insecure or self.is_local:
            return
        wanted = {
            "a token (--token-file or RUNAI_TOKEN)": self.token,
            "TLS (--tls-cert, and --tls-key to serve)": self.tls_cert or self.tls,
        }
        missing = [what for what, given in wanted.items() if not given]
        if missing:
            raise InvalidSetting(
                f"{place}: {self.host} is more than this computer, which needs "
                f"{' and '.join(missing)}.",
                hint="`runai certificate` makes both; --insecure does without, where everybody "
                "on the network may use and hear this.",
            )

    @property
    def first_client_timeout_s(self) -> float | None:
        """How long to wait for the first client, in seconds; None: for ever."""
        return ACCEPT_ATTEMPTS * ATTEMPT_S if self.timeout else None


@dataclass(frozen=True)
class Row:
    """One setting and the names that it goes by."""

    name: str
    kind: Kind
    help: str
    default: Any
    also: str | None  # a second environment variable

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "RUNAI_" + self.name.upper()

    @classmethod
    def of(cls, entry: Field[Any]) -> Row:
        meta = entry.metadata
        return cls(entry.name, meta["kind"], meta["help"], entry.default, meta.get("also"))


ROWS = {entry.name: Row.of(entry) for entry in fields(Settings) if entry.metadata}


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
        text = environ.get(TOKEN_VARIABLE, "") if file is None else file.read_text("utf-8")
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


def is_loopback(host: str) -> bool:
    """Whether only programs on this computer can reach `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
    except (ValueError, KeyError, RuntimeError):  # the last: ~ of somebody who has no home
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
