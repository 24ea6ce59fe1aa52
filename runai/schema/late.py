"""A last event that is still to be made, by whoever has time for it.

To write a picture down as a PNG takes as long as a step or two of a fast model on a GPU, and needs
neither: an engine hands it on, and draws the next ones meanwhile. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runai.schema.events import JobEvent


@dataclass(frozen=True)
class Late:
    """`make` gives the event, on any thread, and needs no engine; what it raises is the request's
    failure. It is called once at most.
    """

    make: Callable[[], JobEvent]


def made(outcome: JobEvent | Late) -> JobEvent:
    """The event, for who has nothing else to do meanwhile."""
    return outcome.make() if isinstance(outcome, Late) else outcome
