"""Texts of others - servers, libraries, clients - as a terminal may be given them."""

from __future__ import annotations


def plain(text: str) -> str:
    """One line without anything that a terminal would obey."""
    joined = " | ".join(text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)
