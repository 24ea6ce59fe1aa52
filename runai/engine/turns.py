"""Whose turn it is to wait: what a turn is spent on, and how long it may be, where owners share.

Theory of operation. A turn is one UNet call, or samples that are done become pictures: one of
each owner. Where others have steps to do, a call comes between two such turns. So nobody's step
waits for more than one picture of each other owner, however many are done at once; and between any
two turns newcomers are let in and cancels are seen. Where networks have to be moved to the device
to be called (`offload`), all that is done is finished at once, or each picture would have them
moved to and fro.

Who shares a call waits for its end. Owners that took turns instead, each with calls of a single
sample, would be served every so many calls as there are owners (and as many times that as the one
with the fewest samples has): no call is to take longer, or sharing would cost who has few samples
more than it gives.

Pure: no clock and no network.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable

from runai.engine.starts import Sample


def to_finish(samples: Collection[Sample], *, called: bool, moved: bool = False) -> list[Sample]:
    """The samples that become pictures in this turn; none: it is a UNet call's.

    `called`: the turn before this one was a call. `moved`: networks are, to be called. Those that
    have been done for longest come first.
    """
    done = sorted((s for s in samples if s.done), key=lambda s: s.last_turn)
    if moved:
        return done
    firsts: dict[int, Sample] = {}
    for sample in done:
        firsts.setdefault(sample.owner, sample)
    others_step = any(not s.done and s.owner not in firsts for s in samples)
    return list(firsts.values()) if called or not others_step else []


def longest_call(samples: Iterable[Sample]) -> float:
    """How many times as long as with one sample the next call may take, of all that is drawn."""
    counts = Counter(sample.owner for sample in samples)
    return len(counts) * min(counts.values()) if len(counts) > 1 else math.inf
