"""Sizes: pictures keep theirs as far as latents allow, and what is asked for goes first."""

from __future__ import annotations

import pytest

from runai.engine.geometry import Extent, chosen


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((512, 768), (512, 768)),
        ((513, 775), (512, 768)),
        ((63, 64), (64, 64)),
        ((1, 10_000), (64, 10_000)),
        ((71, 72), (64, 72)),
    ],
)
def test_a_picture_is_rounded_down_to_whole_latents_but_not_below_the_smallest(
    given: tuple[int, int], kept: tuple[int, int]
) -> None:
    assert Extent(*given).floor().size == kept


def test_multiple_and_smallest_may_be_others() -> None:
    assert Extent(23, 3).floor(4, smallest=4).size == (20, 4)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (None, None, (512, 256)),
        (64, None, (64, 256)),
        (None, 64, (512, 64)),
        (128, 64, (128, 64)),
    ],
)
def test_each_side_that_was_asked_for_goes_before_the_fallback(
    width: int | None, height: int | None, size: tuple[int, int]
) -> None:
    assert chosen(width, height, Extent(512, 256)).size == size
