"""Whether the port is free, or who answers there. Connects to nothing but the own port."""

from __future__ import annotations

from collections.abc import Iterator

from runai import __version__
from runai.cli.checks import Finding
from runai.client import Client
from runai.errors import ConnectionLost, NoServer, RunAIError
from runai.settings import Settings
from runai.transports import listener

TIMEOUT_S = 3.0
OTHER = "Stop the other program, or choose another --port (0 takes any free one)."


def port(settings: Settings) -> Iterator[Finding]:
    where = f"{settings.host}:{settings.port}"
    if settings.port == 0:
        yield Finding("ok", "any free one is taken")
        return
    try:
        yield _answering(settings, where)
    except NoServer:
        for sock in listener.bind(settings.host, settings.port):  # or it says why not
            sock.close()
        yield Finding("ok", f"{where} is free")
    except ConnectionLost:
        yield Finding("problem", f"A program that is no RunAI has {where}.", OTHER)
    except RunAIError as error:  # a RunAI that has no seat for us, say
        yield Finding("warning", f"{where}: {error.message}", error.hint)


def _answering(settings: Settings, where: str) -> Finding:
    with Client(
        settings.host,
        settings.port,
        packet_size=settings.packet_size,
        observer=True,
        timeout_s=TIMEOUT_S,
    ) as client:
        version = client.connect().server_version
    if version == __version__:
        return Finding("ok", f"RunAI {version} is running at {where}")
    return Finding(
        "warning", f"RunAI {version} is running at {where}, this is {__version__}.", "Restart it."
    )
