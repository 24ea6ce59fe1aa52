"""`runai serve`: listens first, imports what is heavy afterwards.

A client started at the same moment finds an open port after some hundredths of a second; what
it sends waits in the kernel until `serving`, with all its imports, gets to it. So nothing
may be imported up here that is not needed to read the settings and to listen.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runai.cli import keys
from runai.cli.parser import Parser
from runai.settings import Settings
from runai.transports import listener
from runai.transports.gate import Gate

if TYPE_CHECKING:
    from runai.jobs.engine import Engine


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    _, settings = command_line().read(words)
    listeners = listener.inherited(os.environ)
    settings = _reached(settings, listeners)
    gate = Gate(keys.read(settings))
    listeners = listeners or _listen(settings)
    from runai.cli.serving import serve

    return serve(listeners, settings, make_engine, gate)


def command_line() -> Parser:
    parser = Parser("serve", "Draw pictures for clients over a socket.")
    parser.add_settings()
    return parser


def _reached(settings: Settings, handed: Sequence[socket.socket]) -> Settings:
    """The settings at the socket that was handed over, of several at one that most can reach.

    Raises InvalidSetting for one that other computers can reach and should not.
    """
    places = [
        settings.at(listener.address_of(sock)[0], is_path=sock.family not in listener.TCP)
        for sock in handed
    ]
    for place in places:
        place.check_reach("The socket that was handed over", serving=True)
    return min(places, key=lambda place: place.is_local, default=settings)


def _listen(settings: Settings) -> list[socket.socket]:
    if settings.unix_path is not None:
        return listener.bind_unix(settings.unix_path)
    return listener.bind(settings.host, settings.port, packet_size=settings.packet_size)
