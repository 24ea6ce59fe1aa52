"""Numbers as people read them."""

from __future__ import annotations

import pytest

from runai.schema.units import bytes_text


@pytest.mark.parametrize(
    ("count", "text"),
    [(9_120_000_000, "9.1 GB"), (10**9, "1.0 GB"), (120_400_000, "120 MB"), (0, "0 MB")],
)
def test_bytes_are_told_as_people_read_them(count: int, text: str) -> None:
    assert bytes_text(count) == text
