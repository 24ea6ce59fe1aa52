"""Where to draw: from what is selected to the part of the document that is asked for.

A server draws sides that are multiples of 8 and at least 64 pixels. So what is selected is rounded
out, moved into the document where it fits, and past its edges only where it does not.
Pure: boxes are in the document's pixels, the right and the lower edge are not part of them.
"""

from __future__ import annotations

from typing import NamedTuple

STEP = 8
LEAST = 64
CONTEXT_LEAST = 32  # what the model sees around a part that it repaints, in pixels
CONTEXT_SHARE = 4  # and a quarter of the longer side


class Box(NamedTuple):
    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + self.height

    def grown(self, by: int) -> Box:
        return Box(self.x - by, self.y - by, self.width + 2 * by, self.height + 2 * by)

    def within(self, other: Box) -> Box | None:
        """The part of this box that lies in the other one."""
        left, right = max(self.x, other.x), min(self.right, other.right)
        top, bottom = max(self.y, other.y), min(self.bottom, other.bottom)
        if left >= right or top >= bottom:
            return None
        return Box(left, top, right - left, bottom - top)


def rounded_out(box: Box, document: Box) -> Box:
    """The smallest box that can be drawn and holds this one, which lies in the document."""
    x, width = _side(box.x, box.width, document.x, document.width)
    y, height = _side(box.y, box.height, document.y, document.height)
    return Box(x, y, width, height)


def _side(start: int, length: int, first: int, room: int) -> tuple[int, int]:
    wanted = max(LEAST, -(-length // STEP) * STEP)
    middle = start - (wanted - length) // 2
    last = max(first, first + room - wanted)
    return min(max(middle, first), last), wanted


def with_context(selected: Box, document: Box) -> Box:
    """The selected part and what is around it, in the document."""
    margin = max(CONTEXT_LEAST, max(selected.width, selected.height) // CONTEXT_SHARE)
    return selected.grown(margin).within(document) or selected
