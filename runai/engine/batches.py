"""Who shares the next UNet call, of those who could: as many as pay for it (`pace`).

A request that nobody could share with has its pictures together by a rule that knows no clock: or
the same request would not give the same bytes each time. In company, where batch-mates change the
last bits in any case, the times of the calls decide; a number that the user gave decides always.
What is known of a network's calls goes with it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from runai.engine.device_clock import DeviceClock
from runai.engine.model import LoadedModel
from runai.engine.pace import POLICIES, Prefer, Sizes
from runai.engine.starts import Sample
from runai.schema.events import CallTime

LEAST_ACTIVE = 8  # samples for which there is room in any case: a short one among long ones
MOST_KINDS = 64  # of calls that are remembered of one network: pictures have any size


class Batches:
    """`max_batch`: samples that share a call; None to measure. `newest`: the times of the newest
    kind of call, any thread.
    """

    def __init__(self, max_batch: int | None, prefer: Prefer) -> None:
        self._max_batch = max_batch
        self._policy = POLICIES[prefer]
        self._clock = DeviceClock()
        self._known: WeakKeyDictionary[Any, OrderedDict[Hashable, Sizes]] = WeakKeyDictionary()
        self._most_rows = 0  # that the newest call could have had
        self.newest: tuple[CallTime, ...] = ()

    def has_room(self, active: Sequence[Sample]) -> bool:
        """Whether more samples than these could be of use, or begin beside them."""
        if len(active) < max(LEAST_ACTIVE, self._max_batch or 0):
            return True
        return not self._max_batch and sum(s.rows for s in active) < self._most_rows

    def cut(
        self, ready: Sequence[Sample], *, alone: bool, longest: float = math.inf
    ) -> Sequence[Sample]:
        """The first of those who could share a call, one at least.

        `alone`: they are of one request. `longest`: the most that the call should take, in calls
        of a single sample (`turns`).
        """
        if self._max_batch:
            return ready[: self._max_batch]
        if alone or not self._clock.can_time(ready[0].model.device):
            most = _together_alone(ready[0].model)
            return ready[: most if self._policy.patient else int(min(most, longest))]
        self._most_rows = self._sizes(ready[0]).limit(ready[0].rows, self._policy.within(longest))
        return _within(ready, self._most_rows)

    @contextmanager
    def timed(self, batch: Sequence[Sample]) -> Iterator[None]:
        """Around the call of a batch: remembers how long it took, if that will be so again."""
        sizes, rows = self._sizes(batch[0]), sum(s.rows for s in batch)
        settled = False

        def note(seconds: float) -> None:
            if not settled:
                return
            sizes.add(rows, seconds)
            known = sorted(sizes.known.items())
            self.newest = tuple(CallTime(rows=r, seconds=s) for r, s in known)

        with self._clock.time(batch[0].model.device, note):
            yield
            settled = batch[0].networks.denoiser.is_settled

    def _sizes(self, sample: Sample) -> Sizes:
        kinds = self._known.setdefault(sample.model.unet, OrderedDict())
        sizes = kinds.setdefault(sample.kind, Sizes())
        kinds.move_to_end(sample.kind)
        if len(kinds) > MOST_KINDS:
            kinds.popitem(last=False)
        return sizes


def _together_alone(model: LoadedModel) -> int:
    """How many pictures of one request share a call where nobody else could.

    A processor is busy with one of a full-size UNet, and a cancel should not wait for many; a
    GPU, and small networks, gain.
    """
    return 2 if not model.is_small and model.device.type == "cpu" else 8


def _within(ready: Sequence[Sample], most_rows: int) -> Sequence[Sample]:
    """As many of the first as have so many rows together; at least one."""
    rows, count = 0, 0
    for sample in ready:
        rows += sample.rows
        if count and rows > most_rows:
            break
        count += 1
    return ready[:count]
