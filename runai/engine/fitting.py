"""How requests get into memory, and what is done when it runs out all the same.

A request begins by the plan that fits by the estimate; out of memory, what is unused goes and
it begins once more by the next plan. A drawing that runs out later steps down likewise, once.
What is held is the cache's business, which plan fits is `plan`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runai.engine import loading
from runai.engine import plan as plans
from runai.engine.cache import ModelCache
from runai.engine.catalogue import Entry
from runai.engine.drawing import Drawing
from runai.engine.faults import device_errors
from runai.engine.model import LoadedModel
from runai.engine.plan import Plan
from runai.errors import OutOfMemory
from runai.schema.requests import GenerationRequest

Start = Callable[[LoadedModel, Plan], Drawing]


class Fitting:
    """`drawings`: what is being drawn, by key; the engine's own. `newest`: the newest plan."""

    def __init__(self, cache: ModelCache, drawings: Mapping[str, Drawing]) -> None:
        self._cache = cache
        self._drawings = drawings
        self.newest: Plan | None = None

    def in_use(self) -> set[str]:
        """Names of what is being drawn with. Any thread."""
        drawings = list(self._drawings.values())
        return {name for drawing in drawings for name in (drawing.model.name, drawing.vae) if name}

    def begin(
        self, request: GenerationRequest, entry: Entry, vae: Entry | None, start: Start
    ) -> Drawing:
        """Load what a request needs and `start` it. Raises OutOfMemory, saying what would fit."""
        plan = self.newest = self._cache.plan(entry, request, self.in_use())
        try:
            with device_errors():
                return self._begin_by(plan, entry, vae, start)
        except OutOfMemory as error:
            reason = error
        self._cache.free({*self.in_use(), entry.name})
        later = self.newest = plans.lower(plan)
        try:
            with device_errors():
                drawing = self._begin_by(later, entry, vae, start)
        except OutOfMemory:
            raise plans.failed(later) from reason
        drawing.stepped_down = True
        return drawing

    def _begin_by(self, plan: Plan, entry: Entry, vae: Entry | None, start: Start) -> Drawing:
        model = self._cache.get(entry, self.in_use(), plan)
        if vae is not None:
            model = loading.with_vae(model, self._cache.vae(vae, {*self.in_use(), entry.name}))
        self.arrange(model, plan)
        drawing = start(model, plan)
        drawing.vae = "" if vae is None else vae.name
        return drawing

    def arrange(self, model: LoadedModel, *more: Plan) -> None:
        """Put a model's parts where all who draw with it can work, so that they need not move
        to and fro.
        """
        drawing = [d.plan for d in self._drawings.values() if d.model.name == model.name]
        self._cache.arrange(model, plans.strictest(plan.name for plan in (*drawing, *more)))

    def step_down(self, drawing: Drawing, error: OutOfMemory) -> None:
        """Free what can be, and go on by the next plan; the second time OutOfMemory."""
        if drawing.stepped_down:
            raise plans.failed(drawing.plan) from error
        self._cache.free(self.in_use())
        drawing.plan = self.newest = plans.lower(drawing.plan)
        drawing.stepped_down = True
