"""Keys and certificates for tests, made by the command that makes them for everybody."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from runai.cli import certificate
from runai.streams.contexts import OwnCertificate


class Pair(NamedTuple):
    certificate: Path
    key: Path
    token: Path

    @property
    def own(self) -> OwnCertificate:
        return OwnCertificate(self.certificate, self.key)


def make(folder: Path, *words: str) -> Pair:
    """A new pair, and a token, in this folder."""
    assert certificate.run(["--into", str(folder), "--force", *words], None) == 0
    return Pair(*(folder / name for name in ("certificate.pem", "key.pem", "token")))
