"""Where is drawn: a box that a server can draw, around what was selected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runai_krita.geometry import Box, rounded_out, with_context

PAGE = Box(0, 0, 512, 384)

ROUNDED = {
    "as it is": (Box(64, 40, 128, 128), PAGE, Box(64, 40, 128, 128)),
    "to multiples of 8": (Box(64, 40, 121, 127), PAGE, Box(61, 40, 128, 128)),
    "to 64": (Box(100, 100, 10, 1), PAGE, Box(73, 69, 64, 64)),
    "at the left and upper edge": (Box(0, 0, 70, 70), PAGE, Box(0, 0, 72, 72)),
    "at the right and lower edge": (Box(502, 374, 10, 10), PAGE, Box(448, 320, 64, 64)),
    "the whole page": (PAGE, PAGE, PAGE),
    "a page of odd sides": (Box(0, 0, 100, 70), Box(0, 0, 100, 70), Box(0, 0, 104, 72)),
    "a part of such a page": (Box(90, 60, 9, 9), Box(0, 0, 100, 70), Box(36, 6, 64, 64)),
    "a page that is too small": (Box(3, 3, 4, 4), Box(0, 0, 20, 30), Box(0, 0, 64, 64)),
    "a page that begins elsewhere": (Box(10, 20, 8, 8), Box(10, 20, 200, 200), Box(10, 20, 64, 64)),
}


@pytest.mark.parametrize("case", ROUNDED)
def test_what_is_selected_is_rounded_out(case: str) -> None:
    selected, page, drawn = ROUNDED[case]
    assert rounded_out(selected, page) == drawn


@st.composite
def selections(draw: st.DrawFn) -> tuple[Box, Box]:
    width, height = draw(st.integers(1, 3000)), draw(st.integers(1, 3000))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    wide, high = draw(st.integers(1, width - left)), draw(st.integers(1, height - top))
    return Box(left, top, wide, high), Box(0, 0, width, height)


@given(selections())
def test_every_box_can_be_drawn_holds_the_selection_and_stays_in_the_page_if_it_fits(
    case: tuple[Box, Box],
) -> None:
    selected, page = case
    for inner in (selected, with_context(selected, page)):
        drawn = rounded_out(inner, page)
        assert drawn.width % 8 == 0 == drawn.height % 8
        assert min(drawn.width, drawn.height) >= 64
        assert selected.within(drawn) == selected
        assert drawn.width < max(inner.width + 8, 65) and drawn.height < max(inner.height + 8, 65)
        if page.width >= drawn.width and page.height >= drawn.height:
            assert drawn.within(page) == drawn


CONTEXTS = {
    "a quarter": (Box(200, 100, 160, 40), Box(160, 60, 240, 120)),
    "at least 32": (Box(200, 100, 10, 10), Box(168, 68, 74, 74)),
    "cut at the edges": (Box(0, 300, 160, 84), Box(0, 260, 200, 124)),
    "all there is": (PAGE, PAGE),
}


@pytest.mark.parametrize("case", CONTEXTS)
def test_what_is_around_the_selection_is_seen_too(case: str) -> None:
    selected, seen = CONTEXTS[case]
    assert with_context(selected, PAGE) == seen


@pytest.mark.parametrize("outside", [Box(512, 0, 5, 5), Box(-5, 0, 5, 5), Box(0, 384, 9, 9)])
def test_boxes_that_only_touch_share_nothing(outside: Box) -> None:
    assert outside.within(PAGE) is None
