"""Whose turn it is to wait: what a turn is spent on, and how long it may be, where owners share.

Theory of operation. A turn is one UNet call, or samples that are done become pictures: one of
each owner. Where others have nothing to do but steps, a call comes between two such turns. So their
steps wait for no more than one picture of each other owner, however many are done at once; and
between any two turns newcomers are let in and cancels are seen. Where networks have to be moved to
the device to be called (`offload`), all that is done is finished at once, or each picture would
have them moved to and fro.

Who shares a call waits for its end, and who does not waits too. Owners that took turns instead,
each with calls of a single sample, would be served every so many calls as there are owners (and as
many times that as the one with the fewest samples has). So a call is to take as long as its owners'
turns would: else sharing would cost who has few samples more than it gives.

Pure: no clock and no network.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Container, Iterable

from runai.engine.starts import Sample


def to_finish(
    samples: Collection[Sample], *, called: bool, moved: Container[Sample] = ()
) -> list[Sample]:
    """The samples that become pictures in this turn; none: it is a UNet call's.

    `called`: the turn before this one was a call. `moved`: those whose networks are, to be called.
    What has been done for longest comes first.
    """
    done = sorted((s for s in samples if s.done), key=lambda s: s.last_turn)
    if at_once := [s for s in done if s in moved]:
        return at_once
    firsts: dict[int, Sample] = {}
    for sample in done:
        firsts.setdefault(sample.owner, sample)
    others_step = any(not s.done and s.owner not in firsts for s in samples)
    return list(firsts.values()) if called or not others_step else []


def longest_call(ready: Iterable[Sample], samples: Iterable[Sample]) -> float:
    """How many times as long as with one sample a call may take. `ready`: who could share it, of
    all samples that are drawn.
    """
    counts = Counter(sample.owner for sample in samples if not sample.done)
    if len(counts) < 2:
        return math.inf
    return len({sample.owner for sample in ready}) * min(counts.values())
