"""`runai service install|remove|status`: a systemd service of the user's that sleeps when idle.

systemd listens; the first client has it start the server, which takes the sockets over (see
`transports.listener`) and ends when nobody was there for a while. So a computer with a GPU serves
without anything running that nobody uses. The settings in force at `install`, wherever they come
from, are what the server is started with: systemd gives it neither this environment nor --config.

Writes two files, runs `systemctl --user`, and nothing else.
"""

from __future__ import annotations

import os
import subprocess
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from runai.cli import program
from runai.cli.exit_codes import ExitCode
from runai.cli.parser import Parser
from runai.errors import DependencyMissing, InvalidSetting, SetupError
from runai.jobs.engine import Engine
from runai.settings import ROWS, SWITCH, Settings, as_text
from runai.transports.listener import LOOPBACKS

SOCKET, SERVICE = "runai.socket", "runai.service"
IDLE_EXIT_S = 600.0
WHERE = ("host", "port", "listen")  # what systemd listens on, and the server is handed
UNITS = {
    SOCKET: """\
[Unit]
Description=RunAI, until somebody connects

[Socket]
{listen}
SocketMode=0600

[Install]
WantedBy=sockets.target
""",
    SERVICE: """\
[Unit]
Description=RunAI: pictures for the programs people draw in
Requires={socket}
After={socket}

[Service]
Type=exec
ExecStart={command}
Restart=on-failure
NoNewPrivileges=yes
""",
}


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    arguments, settings = command_line().read(words)
    folder = _folder()
    return int(ACTIONS[arguments.action](folder, arguments, settings))


def command_line() -> Parser:
    parser = Parser("service", "Have systemd start the server when somebody connects.")
    parser.add_argument(
        "action", choices=tuple(ACTIONS), help="what to do; the settings are for install"
    )
    parser.add_settings()
    return parser


def _install(folder: Path, arguments: Namespace, settings: Settings) -> int:
    if os.environ.get("RUNAI_TOKEN"):
        raise InvalidSetting(
            "RUNAI_TOKEN is not there when systemd starts the server.", hint="Use --token-file."
        )
    files = units(arguments, settings)
    _reach_systemd()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)
    _systemctl("daemon-reload")
    _systemctl("enable", SOCKET)
    # one that listens already would go on where the last installation had it, and so would its
    # server: the restart takes the server along
    _systemctl("restart", SOCKET)
    print(f"Started when somebody connects to {_where(settings)}.")
    return ExitCode.OK


def _remove(folder: Path, arguments: Namespace, settings: Settings) -> int:
    there = [folder / name for name in UNITS if (folder / name).exists()]
    if not there:
        print("There is no service to remove.")
        return ExitCode.OK
    _reach_systemd()
    _systemctl("disable", "--now", SOCKET, SERVICE)
    for path in there:
        path.unlink()
        print(f"{path} is removed.")
    _systemctl("daemon-reload")
    return ExitCode.OK


def _status(folder: Path, arguments: Namespace, settings: Settings) -> int:
    if not (folder / SOCKET).exists():
        print("There is no service. Make one: runai service install")
        return ExitCode.FAILED
    _reach_systemd()
    for name, what in ((SOCKET, "listens"), (SERVICE, "server")):
        print(f"{what:8} {_systemctl('is-active', name, check=False)}  ({folder / name})")
    return ExitCode.OK


ACTIONS: dict[str, Callable[[Path, Namespace, Settings], int]] = {
    "install": _install,
    "remove": _remove,
    "status": _status,
}


def units(arguments: Namespace, settings: Settings) -> dict[str, str]:
    """The files for systemd (systemd.socket(5), systemd.service(5)), by name."""
    command = [*program.words(), "serve", *_flags(arguments, settings)]
    filled = {
        "listen": "\n".join(f"ListenStream={address}" for address in _addresses(settings)),
        "command": " ".join(map(_quoted, command)),
        "socket": SOCKET,
    }
    return {name: text.format(**filled) for name, text in UNITS.items()}


def _flags(arguments: Namespace, settings: Settings) -> list[str]:
    """What is no default, with files where they are whatever the folder is.

    A default that was said on the command line is said again: there may be a runai.toml.
    """
    if not settings.idle_exit_s and arguments.idle_exit_s is None:
        settings = replace(settings, idle_exit_s=IDLE_EXIT_S)
    flags = []
    for name, row in ROWS.items():
        value = getattr(settings, name)
        if name in WHERE or (value == row.default and getattr(arguments, name) is None):
            continue
        if row.kind is SWITCH:
            flags.append(row.flag if value else row.flag.replace("--", "--no-", 1))
        else:
            flags += [row.flag, as_text(_absolute(value))]
    return flags


def _absolute(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(map(_absolute, value))
    return value.absolute() if isinstance(value, Path) else value


def _addresses(settings: Settings) -> list[str]:
    if settings.unix_path is not None:
        return [_one_line(str(settings.unix_path.absolute())).replace("%", "%%")]
    hosts = [host for _, host in LOOPBACKS] if settings.host == "localhost" else [settings.host]
    return [
        f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}" for host in hosts
    ]


def _where(settings: Settings) -> str:
    return str(settings.unix_path) if settings.listen else f"{settings.host}, port {settings.port}"


def _quoted(word: str) -> str:
    """A word of a command as systemd reads it, which expands `%` and `$` (systemd.service(5))."""
    escaped = (
        _one_line(word)
        .replace("\\", "\\\\")
        .replace('"', '\\"')
        .replace("%", "%%")
        .replace("$", "$$")
    )
    return f'"{escaped}"'


def _one_line(value: str) -> str:
    """Raises InvalidSetting for more: the rest would be settings of systemd's."""
    if "\n" in value or "\r" in value:
        raise InvalidSetting(
            f"{value!r} has a line break in it, which a file for systemd cannot hold.",
            hint="Give it a name without one.",
        )
    return value


def _folder() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return Path(home, "systemd", "user")


def _reach_systemd() -> None:
    """Raises SetupError where the user's systemd does not answer: then nothing has been changed."""
    _systemctl(
        "show-environment",
        hint="It needs a session of the user's own systemd: log in on the computer itself.",
    )


def _systemctl(
    *words: str,
    check: bool = True,
    hint: str = f"`systemctl --user status {SOCKET}` tells why; another program may listen there.",
) -> str:
    command = ["systemctl", "--user", *words]
    try:
        done = subprocess.run(  # noqa: S603 (words of our own)
            command, capture_output=True, text=True, check=False
        )
    except OSError:
        raise DependencyMissing(
            "This computer has no systemctl.",
            hint="Start `runai --keep-alive` when you log in, by whatever starts programs then.",
        ) from None
    if check and done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[0].rstrip(".")
        raise SetupError(f"`{' '.join(command)}` failed: {said}.", hint=hint)
    return done.stdout.strip()
