"""Where a server is, and how to get a stream to it: TCP or a Unix socket, plain or inside TLS."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runai.errors import ConnectionLost, NoServer
from runai.streams.plain import PlainStream, Stream

if TYPE_CHECKING:
    from runai.streams.contexts import Trust


@dataclass(frozen=True)
class Address:
    """`unix_path` stands in for host and port. `trust`: None: no TLS, which a path never has."""

    host: str
    port: int
    unix_path: Path | None = None
    trust: Trust | None = None

    def __str__(self) -> str:
        return str(self.unix_path) if self.unix_path else f"{self.host}, port {self.port}"

    def connect(self, timeout_s: float) -> Stream:
        """Raises NoServer, NotTrusted, ConnectionLost (no TLS there), InvalidSetting (files)."""
        try:
            plain = PlainStream(self._open(timeout_s))
        except (OSError, UnicodeError, OverflowError) as error:
            raise NoServer(f"No server answers on {self}: {_reason(error)}.") from None
        if self.trust is None or self.unix_path is not None:
            return plain
        try:
            return self._secured(plain, self.trust, timeout_s)
        except OSError as error:  # ssl's errors among them
            raise ConnectionLost(
                f"There is no TLS with {self}: {_reason(error)}.",
                hint="Ask without it, or start the server with --tls-cert and --tls-key.",
            ) from None

    def _open(self, timeout_s: float) -> socket.socket:
        if self.unix_path is not None:
            opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                opened.connect(str(self.unix_path))
            except OSError:
                opened.close()
                raise
            return opened
        opened = socket.create_connection((self.host, self.port), timeout_s)
        opened.settimeout(None)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # one that vanishes without a word is noticed some time, and sooner by a `Link`
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return opened

    def _secured(self, plain: PlainStream, trust: Trust, timeout_s: float) -> Stream:
        from runai.streams.contexts import secure_client

        try:
            return secure_client(plain, trust, self.host, timeout_s)
        except BaseException:
            plain.close()
            raise


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
