"""Files whose content is nobody else's business, and whether they lead to a server."""

from __future__ import annotations

from collections.abc import Iterator

from runai.cli import keys
from runai.cli.checks import Finding
from runai.settings import Settings


def private_files(settings: Settings) -> Iterator[Finding]:
    files = keys.secret(settings)
    if settings.tls_key is not None:
        keys.read(settings)  # says so where the pair is none
    for file in files:
        if keys.is_exposed(file):
            yield Finding(
                "problem", f"others may read or write {file}.", f"Run: chmod 600 '{file}'"
            )
        else:
            yield Finding("ok", f"{file} is for its owner only")
    if not files:
        yield Finding("ok", "none are set")
