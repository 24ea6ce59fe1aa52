"""Where the server is and how it is started, kept in Krita's own settings."""

from __future__ import annotations

from typing import Any, NamedTuple

from krita import Krita

GROUP = "runai_krita"
DEFAULT_PORT = 50006


class Settings(NamedTuple):
    """`command` empty: only connect. `token` empty: none is sent. `certificate` empty: no TLS."""

    host: str = "localhost"
    port: int = DEFAULT_PORT
    command: str = "runai"
    token: str = ""
    certificate: str = ""

    def hello(self) -> dict[str, Any]:
        message = {"type": "hello", "protocol": 1, "client": "runai_krita 1.0"}
        return {**message, "token": self.token} if self.token else message


def read() -> Settings:
    krita = Krita.instance()
    found = {
        name: krita.readSetting(GROUP, name, str(default))
        for name, default in Settings._field_defaults.items()
    }
    port = found.pop("port")
    return Settings(port=int(port) if port.isdigit() else DEFAULT_PORT, **found)


def write(settings: Settings) -> None:
    for name, value in settings._asdict().items():
        Krita.instance().writeSetting(GROUP, name, str(value))
