"""Whether the port or Unix socket is free, or who answers there. Connects to nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from runai import __version__
from runai.cli import wiring
from runai.cli.checks import Finding
from runai.errors import ConnectionLost, NoServer, RunAIError
from runai.settings import Settings
from runai.transports import listener

TIMEOUT_S = 3.0
OTHER = "Stop the other program, or choose another --port (0 takes any free one)."
OTHER_PATH = "Choose a --listen in a folder that you may write to, of a name that no file has."


def port(settings: Settings) -> Iterator[Finding]:
    where = settings.listen or f"{settings.host}:{settings.port}"
    if settings.listen is None and settings.port == 0:
        yield Finding("ok", "any free one is taken")
        return
    try:
        yield _answering(settings, where)
    except NoServer:
        yield _free(settings, where)
    except ConnectionLost:
        yield Finding("problem", f"A program that is no RunAI has {where}.", OTHER)
    except RunAIError as error:  # a RunAI that has no seat for us, say
        yield Finding("warning", f"{where}: {error.message}", error.hint)


def _answering(settings: Settings, where: str) -> Finding:
    with wiring.client(settings, observer=True, timeout_s=TIMEOUT_S) as client:
        version = client.connect().server_version
    if version == __version__:
        return Finding("ok", f"RunAI {version} is running at {where}")
    return Finding(
        "warning", f"RunAI {version} is running at {where}, this is {__version__}.", "Restart it."
    )


def _free(settings: Settings, where: str) -> Finding:
    """Raises AddressInUse or InvalidSetting where nobody can listen."""
    path = settings.unix_path
    if path is None:
        for sock in listener.bind(settings.host, settings.port):
            sock.close()
    elif not _can_be_made(path):
        return Finding("problem", f"{path} cannot be listened on.", OTHER_PATH)
    return Finding("ok", f"{where} is free")


def _can_be_made(path: Path) -> bool:
    """Whether a server could; to try would change something. One that ended left a socket."""
    if os.path.lexists(path):
        return path.is_socket() and os.access(path, os.W_OK)
    return os.access(path.parent, os.W_OK | os.X_OK)
