"""The owner of everything that is loaded: models, and VAEs used in their place.

Theory of operation. What was longest unused goes first when room is needed; what is in use never
goes. Room is asked of the machine, not guessed: what is free now, and what would be if all that
is unused went. So a plan is chosen against all that could be had (`plan`), then `get` lets
go of just enough for it, and only then loads. The setting `max_memory`, where it is set, bounds
what is held and drawn with on the device as if the device had no more; what others hold there
(LoRAs, the NSFW filter, encoded prompts) is within it, but theirs to let go of.

Things are known by their entries, which change when their files do: a model whose file was
written over is held, and drawn with, for as long as it is in use, beside the one that is read
anew. One thread changes things; `names` and `loaded` may be called from any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

import torch

from runai.engine import footprint
from runai.engine import plan as plans
from runai.engine.catalogue import Entry
from runai.engine.devices import Place
from runai.engine.gauge import Gauge
from runai.engine.held import Held, release
from runai.engine.loading import with_vae
from runai.engine.main_memory import available_memory
from runai.engine.model import LoadedModel
from runai.engine.offload import HOME, parts
from runai.engine.plan import Plan, Room
from runai.errors import OutOfMemory
from runai.schema.events import Holdings, Loaded
from runai.schema.requests import GenerationRequest, MemoryPlan
from runai.schema.units import bytes_text

LOADING_FACTOR = 1.2  # weights are held twice in part while they are converted


class ModelCache:
    """See the module. `load` reads a model onto a place, `load_vae` a VAE.

    `beside`: the bytes that others hold on the device. `spare`: of these, those that are of less
    use than anything that is asked for; `let_go_of_spare`: says whether there were any.
    """

    def __init__(
        self,
        load: Callable[[Entry, Place], LoadedModel],
        load_vae: Callable[[Entry, Place], Any],
        place: Place,
        *,
        max_bytes: int = 0,
        beside: Callable[[], int] = lambda: 0,
        spare: Callable[[], int] = lambda: 0,
        let_go_of_spare: Callable[[], bool] = lambda: False,
        free_bytes: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._load_vae = load_vae
        self._place = place
        self._max_bytes = max_bytes
        self._beside = beside
        self._spare = spare
        self.let_go_of_spare = let_go_of_spare
        self._gauge = Gauge(free_bytes or place.free_bytes, clock)
        self._free_bytes = self._gauge.exact
        self._clock = clock
        self._held: dict[Entry, Held] = {}  # the longest unused first

    # --- what there is -----------------------------------------------------------------

    def names(self) -> list[str]:
        """Of the models in memory. Any thread."""
        return list(dict.fromkeys(e.name for e in list(self._held) if e.kind == "model"))

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._held

    def loaded(self, in_use: Collection[Entry]) -> list[Loaded]:
        """What is in memory, the longest unused first. Any thread."""
        now, all_ = self._clock(), list(self._held.values())
        return [held.as_event(now, in_use=held.entry in in_use) for held in all_]

    def holdings(self, in_use: Collection[Entry]) -> Holdings:
        """What is in memory, and how much more could be, a second ago at most. Any thread."""
        loaded = self.loaded(in_use)
        return Holdings(
            loaded=loaded,
            loaded_bytes=sum(held.bytes for held in loaded),
            free_bytes=self._gauge.recent(),
            max_bytes=self._max_bytes,
        )

    def spare_bytes(self) -> int:
        """What can be had on the device with nothing let go of."""
        free = self._free_bytes()
        if not self._max_bytes:
            return free
        return min(free, self._max_bytes - self._bytes_of(self._held) - self._beside())

    # --- taking up a request -----------------------------------------------------------

    def plan(
        self,
        entry: Entry,
        request: GenerationRequest,
        in_use: Collection[Entry],
        vae: Entry | None = None,
    ) -> Plan:
        """How to fit a request, by what could be had. `vae`: drawn with instead of the model's
        own, which stays. Raises OutOfMemory where nothing fits.
        """
        element, fp16 = self._place.dtype.itemsize, self._place.dtype == torch.float16
        known, held = footprint.of(entry), self._held.get(entry)
        weights = known.weights(element) if held is None else held.weights
        work = known.work(request, element, fp16=fp16)
        if vae is not None:
            weights = replace(weights, vae=weights.vae + footprint.of_vae(vae) * element)
            work = footprint.decoded_by(vae, work, request)
        return plans.choose(
            weights, work, self._room(_own(entry, vae), in_use), request.memory_plan
        )

    def get(
        self, entry: Entry, in_use: Collection[Entry], plan: Plan, vae: Entry | None = None
    ) -> LoadedModel:
        """The model of an entry, loaded now if need be, with room for the plan; `arrange` it
        before drawing. With another VAE it is the same one whenever it is asked for. Those
        `in_use`, and what is asked for, stay.
        """
        in_use = {*in_use, *_own(entry, vae)}
        self._drop_replaced(in_use)
        self._make_room(plan, _own(entry, vae), in_use)
        place = self._place if plan.keeps_on_device else replace(self._place, device=HOME)
        held = self._held.get(entry)
        if held is None:
            model = replace(self._load(entry, place), place=self._place)
            held = Held(entry, model, tuple(parts(model)), self._clock())
        self._keep(held)
        return held.thing if vae is None else held.with_vae(vae, self._vae(vae, place))

    def paired(self, model: LoadedModel, vae: Entry, in_use: Collection[Entry]) -> LoadedModel:
        """A loaded model with another VAE on the device, loaded now if need be; nothing else is
        moved. Raises OutOfMemory if there is no room for it.
        """
        if vae not in self._held:
            self.make_room(footprint.of_vae(vae) * self._place.dtype.itemsize, in_use)
        return with_vae(model, self._vae(vae, self._place))

    def _vae(self, entry: Entry, place: Place) -> Any:
        held = self._held.get(entry)
        if held is None:
            vae = self._load_vae(entry, place)
            held = Held(entry, vae, (vae,), self._clock())
        self._keep(held)
        return held.thing

    def make_room(self, needed: int, in_use: Collection[Entry]) -> None:
        """Let go of what is not in use until there is room for so many bytes on the device,
        beside all that is held. Raises OutOfMemory if there is none.
        """
        self._count()
        self._evict_until(needed, in_use)
        spare = self.spare_bytes()
        if spare < needed:
            raise OutOfMemory(
                f"This needs {bytes_text(needed)} more; {bytes_text(max(spare, 0))} are free.",
                hint="Use smaller or fewer LoRAs or another model, or give the server more memory.",
            )

    # --- drawing -----------------------------------------------------------------------

    def arrange(self, model: LoadedModel, plan: MemoryPlan) -> None:
        """Put the model's parts where a plan wants them; costs nothing where they are already."""
        held = self._held[model.entry]
        held.used = self._clock()
        for other in self._held.values():
            if other is not held and other.arrangement is not None:
                other.arrangement.leave()
        if held.arrange(model, plan):
            held.count(self._place.device)

    # --- letting go --------------------------------------------------------------------

    def free(self, in_use: Collection[Entry]) -> None:
        """Let go of all that is not in use, and of what torch keeps for later."""
        self._let_go([entry for entry in self._held if entry not in in_use])

    def rest(self, idle_s: float, in_use: Collection[Entry]) -> float | None:
        """Let go of what was not used for `idle_s`; seconds until the next is due, if any."""
        now = self._clock()
        due_in = {e: h.used + idle_s - now for e, h in self._held.items() if e not in in_use}
        if due := [entry for entry, left in due_in.items() if left <= 0]:
            self._let_go(due)
        return min((left for left in due_in.values() if left > 0), default=None)

    def clear(self) -> None:
        self._held.clear()
        release()

    # --- within ------------------------------------------------------------------------

    def _drop_replaced(self, wanted: Collection[Entry]) -> None:
        """Old weights must not be held while new ones come, unless somebody draws with them."""
        names = {(entry.kind, entry.name) for entry in wanted}
        if old := [e for e in self._held if (e.kind, e.name) in names and e not in wanted]:
            self._let_go(old)

    def _keep(self, held: Held) -> None:
        self._held.pop(held.entry, None)
        held.used = self._clock()
        self._held[held.entry] = held
        self._count()

    def _count(self) -> None:
        for held in self._held.values():
            if self._place.has_own_memory or not held.total:  # else nothing comes and goes
                held.count(self._place.device)

    def _room(self, own: Collection[Entry], in_use: Collection[Entry]) -> Room:
        """All that could be had for a model: what is free, its own, and held but not needed."""
        self._count()
        kept = self._bytes_of(entry for entry in in_use if entry not in own)
        free = self._free_bytes() + self._bytes_of(self._held) - kept + self._spare()
        if self._max_bytes:
            free = min(free, self._max_bytes - kept - self._beside() + self._spare())
        return Room(max(free, 0), separate=self._place.has_own_memory)

    def _make_room(self, plan: Plan, own: Collection[Entry], in_use: Collection[Entry]) -> None:
        missing = [entry for entry in own if entry not in self._held]
        loading = int(plan.weights.total * LOADING_FACTOR) if missing else 0
        wanted = max(plan.needed_bytes, loading if plan.keeps_on_device else 0)
        self._evict_until(wanted - self._bytes_of(own), in_use)
        if not plan.keeps_on_device:
            self._evict_while(lambda: available_memory() < loading, in_use)

    def _bytes_of(self, entries: Iterable[Entry]) -> int:
        """What is on the device of these, as far as they are held."""
        return sum(self._held[entry].on_device for entry in entries if entry in self._held)

    def _evict_until(self, spare: float, in_use: Collection[Entry]) -> None:
        self._evict_while(lambda: self.spare_bytes() < spare, in_use)

    def _evict_while(self, short: Callable[[], bool], in_use: Collection[Entry]) -> None:
        if short():
            self.let_go_of_spare()
        for entry in [entry for entry in self._held if entry not in in_use]:
            if not short():
                return
            self._let_go([entry])

    def _let_go(self, entries: Collection[Entry]) -> None:
        for entry in entries:
            self._drop(entry)
        release()  # with no name for any of them left

    def _drop(self, entry: Entry) -> None:
        del self._held[entry]
        for held in self._held.values():
            held.forget(entry)


def _own(*entries: Entry | None) -> list[Entry]:
    return [entry for entry in entries if entry is not None]
