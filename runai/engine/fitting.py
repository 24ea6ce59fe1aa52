"""How requests get into memory, and what is done when it runs out all the same.

A request begins by the plan that fits by the estimate; out of memory, what is unused goes and
it begins once more by the next plan. A drawing that runs out later steps down likewise, once.
A batch takes what room there is: where running out of memory would kill the server, by the
estimate; elsewhere one that ran out is halved, and those like it from then on.

Rule: nothing of an attempt that failed is held while the next one runs: no error, whose
traceback would hold all that was computed.

What is held is the cache's business, which plan fits is `plan`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from runai.engine import plan as plans
from runai.engine import threads
from runai.engine.cache import ModelCache
from runai.engine.catalogue import Entry
from runai.engine.drawing import Drawing
from runai.engine.faults import device_errors
from runai.engine.model import LoadedModel
from runai.engine.plan import Plan
from runai.engine.starts import Kind, Sample
from runai.errors import OutOfMemory
from runai.schema.requests import GenerationRequest

Start = Callable[[LoadedModel, Plan], Drawing]


class Fitting:
    """`drawings`: what is being drawn, by key; the engine's own. `newest`: the newest plan."""

    def __init__(self, cache: ModelCache, drawings: Mapping[str, Drawing]) -> None:
        self._cache = cache
        self._drawings = drawings
        self._starting: frozenset[Entry] = frozenset()
        # samples a call may hold where a larger one ran out of memory; goes with its UNet
        self._ceilings: WeakKeyDictionary[Any, dict[Kind, int]] = WeakKeyDictionary()
        self.newest: Plan | None = None

    def in_use(self) -> set[Entry]:
        """What is being drawn with, or is about to be. Any thread."""
        drawings = list(self._drawings.values())
        entries = {e for d in drawings for e in (d.model.entry, d.vae, d.preview_vae)}
        return {entry for entry in (*entries, *self._starting) if entry is not None}

    def make_room(self, needed: int) -> None:
        """Room for so many bytes more that are not the cache's. Raises OutOfMemory.

        Where running out of memory would kill the server, what the newest request is drawn with
        stays free besides.
        """
        plan = self.newest
        if plan is not None and not plan.room.separate:
            needed += plan.work.peak_bytes(tiled=plan.tiled)
        self._cache.make_room(needed, self.in_use())

    # --- beginning ---------------------------------------------------------------------

    def load(self, request: GenerationRequest, entry: Entry) -> None:
        """Have a model in memory for a request that may come. Raises a ModelError, OutOfMemory."""
        plan = self._cache.plan(entry, request, self.in_use())
        self.arrange(self._cache.get(entry, self.in_use(), plan), plan)

    def begin(
        self, request: GenerationRequest, entry: Entry, vae: Entry | None, start: Start
    ) -> Drawing:
        """Load what a request needs and `start` it. Raises OutOfMemory, saying what would fit."""
        plan = self.newest = self._cache.plan(entry, request, self.in_use(), vae)
        self._starting = frozenset({entry} if vae is None else {entry, vae})
        try:
            return self._begin(plan, entry, vae, start)
        finally:
            self._starting = frozenset()

    def _begin(self, plan: Plan, entry: Entry, vae: Entry | None, start: Start) -> Drawing:
        try:
            with device_errors():
                return self._begin_by(plan, entry, vae, start)
        except OutOfMemory:
            again = self.relieve()
        if again:
            return self._begin(plan, entry, vae, start)
        later = self.newest = plans.lower(plan)
        self._cache.free(self.in_use())
        try:
            with device_errors():
                drawing = self._begin_by(later, entry, vae, start)
        except OutOfMemory as error:
            raise plans.failed(later) from error
        drawing.stepped_down = True
        return drawing

    def _begin_by(self, plan: Plan, entry: Entry, vae: Entry | None, start: Start) -> Drawing:
        model = self._cache.get(entry, self.in_use(), plan, vae)
        self.arrange(model, plan)
        drawing = start(model, plan)
        drawing.vae = vae
        return drawing

    # --- drawing -----------------------------------------------------------------------

    def preview_by(self, drawing: Drawing, vae: Entry) -> None:
        """Have a drawing's previews decoded by a tiny autoencoder, loaded now if need be.

        Raises a ModelError, or OutOfMemory.
        """
        own = {entry for entry in (drawing.model.entry, drawing.vae) if entry is not None}
        with device_errors():
            drawing.previewed_by = self._cache.paired(drawing.model, vae, own | self.in_use())
        drawing.preview_vae = vae

    def arrange(self, model: LoadedModel, *more: Plan) -> None:
        """Put a model's parts where all who draw with it can work, so that they need not move
        to and fro, and have it drawn with as many threads as are good for it.
        """
        drawing = [d.plan for d in self._drawings.values() if d.model.entry == model.entry]
        self._cache.arrange(model, plans.strictest(plan.name for plan in (*drawing, *more)))
        threads.set_for(model)

    def within(self, batch: Sequence[Sample], plan: Plan) -> Sequence[Sample]:
        """As many of those who could share a UNet call as there is room for, one at least.

        `plan`: of any of them.
        """
        batch = batch[: self._ceilings.get(batch[0].model.unet, {}).get(batch[0].kind)]
        if plan.room.separate:
            return batch
        spare = self._cache.spare_bytes()
        while len(batch) > 1 and _bytes_of_call(batch, plan) > spare:
            batch = batch[:-1]
        return batch

    def halve(self, batch: Sequence[Sample]) -> None:
        """From now on half as many share a call, of those like these."""
        ceilings = self._ceilings.setdefault(batch[0].model.unet, {})
        ceilings[batch[0].kind] = len(batch) // 2

    def relieve(self) -> bool:
        """Let go of what is worth less than to draw as planned; whether there was any."""
        return self._cache.let_go_of_spare()

    def step_down(self, drawing: Drawing, error: OutOfMemory) -> None:
        """Free what can be, and go on by the next plan; the second time OutOfMemory."""
        if self.relieve():
            return
        if drawing.stepped_down:
            raise plans.failed(drawing.plan) from error
        self._cache.free(self.in_use())
        drawing.plan = self.newest = plans.lower(drawing.plan)
        drawing.stepped_down = True


def _bytes_of_call(batch: Sequence[Sample], plan: Plan) -> int:
    return replace(plan.work, rows=sum(sample.rows for sample in batch)).unet_bytes
