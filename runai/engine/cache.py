"""The owner of everything that is loaded: models with their LoRAs, and VAEs used in their place.

Theory of operation. What was longest unused goes first when room is needed; what is in use never
goes. Room is asked of the machine, not guessed: what is free now, and what would be if all that
is unused went. So a plan is chosen against all that could be had (`plan`), then `get` lets
go of just enough for it, and only then loads. The setting `max_memory`, where it is set, bounds
what is held and drawn with on the device as if the device had no more.

`in_use` are names of entries. A model's bytes are counted anew whenever it is asked for, since
LoRAs add weights to it. One thread changes things; `names` and `loaded` may be called from any.

Does not bound encoded prompts: their cache has a bound of its own.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from runai.engine import footprint
from runai.engine import plan as plans
from runai.engine.catalogue import Entry
from runai.engine.devices import Place, available_memory
from runai.engine.footprint import Footprint
from runai.engine.model import LoadedModel
from runai.engine.offload import HOME, Arrangement, parts
from runai.engine.plan import Plan, Room, Weights
from runai.schema.events import Holdings, Kind, Loaded
from runai.schema.requests import GenerationRequest, MemoryPlan

LOADING_FACTOR = 1.2  # weights are held twice in part while they are converted


@dataclass(eq=False)
class _Held:
    """Something loaded. `on_device`: bytes there when last counted; `total`: wherever they are."""

    entry: Entry
    thing: Any
    networks: Sequence[Any]
    used: float
    kind: Kind = "model"
    plan: MemoryPlan | None = None
    arrangement: Arrangement | None = None
    total: int = field(default=0, init=False)
    on_device: int = field(default=0, init=False)

    def count(self, device: torch.device) -> None:
        counted = [(p.device.type, p.nbytes) for p in _tensors(self.networks)]
        self.total = sum(size for _, size in counted)
        self.on_device = sum(size for where, size in counted if where == device.type)


class ModelCache:
    """See the module. `load` reads a model onto a place, `load_vae` a VAE."""

    def __init__(
        self,
        load: Callable[[Entry, Place], LoadedModel],
        load_vae: Callable[[Entry, Place], Any],
        place: Place,
        *,
        max_bytes: int = 0,
        free_bytes: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._load_vae = load_vae
        self._place = place
        self._max_bytes = max_bytes
        self._free_bytes = free_bytes or place.free_bytes
        self._clock = clock
        self._held: dict[str, _Held] = {}  # the longest unused first
        self._footprints: dict[Entry, Footprint] = {}

    # --- what there is -----------------------------------------------------------------

    def names(self) -> list[str]:
        """Of the models in memory. Any thread."""
        return [held.entry.name for held in list(self._held.values()) if held.kind == "model"]

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def loaded(self, in_use: Collection[str]) -> list[Loaded]:
        """What is in memory, the longest unused first. Any thread."""
        now = self._clock()
        return [
            Loaded(
                name=held.entry.name,
                kind=held.kind,
                bytes=held.total,
                plan=held.plan,
                in_use=held.entry.name in in_use,
                idle_s=round(now - held.used, 1),
            )
            for held in list(self._held.values())
        ]

    def holdings(self, in_use: Collection[str]) -> Holdings:
        """What is in memory, and how much more could be. Any thread."""
        loaded = self.loaded(in_use)
        return Holdings(
            loaded=loaded,
            loaded_bytes=sum(held.bytes for held in loaded),
            free_bytes=self._free_bytes(),
            max_bytes=self._max_bytes,
        )

    # --- taking up a request -----------------------------------------------------------

    def plan(self, entry: Entry, request: GenerationRequest, in_use: Collection[str]) -> Plan:
        """How to fit a request, by what could be had. Raises OutOfMemory where nothing fits."""
        element, fp16 = self._place.dtype.itemsize, self._place.dtype == torch.float16
        if entry not in self._footprints:
            self._footprints = {entry: footprint.of(entry), **dict(self._recent_footprints())}
        known = self._footprints[entry]
        held = self._held.get(entry.name)
        loaded = held is not None and held.entry == entry
        weights = weigh(held.thing) if held and loaded else known.weights(element)
        work = known.work(request, element, fp16=fp16)
        return plans.choose(weights, work, self._room(entry, in_use), request.memory_plan)

    def get(self, entry: Entry, in_use: Collection[str], plan: Plan) -> LoadedModel:
        """The model of an entry, loaded now if need be, with room for the plan; `arrange` it
        before drawing. Those `in_use` stay.
        """
        held = self._current(entry)
        self._make_room(plan, entry, in_use)
        if held is None:
            place = self._place if plan.keeps_on_device else replace(self._place, device=HOME)
            model = replace(self._load(entry, place), place=self._place)
            held = _Held(entry, model, tuple(parts(model)), self._clock())
        self._keep(held)
        return held.thing

    def vae(self, entry: Entry, in_use: Collection[str]) -> Any:
        """A VAE to use instead of a model's own; on the device."""
        held = self._current(entry)
        if held is None:
            expected = footprint.of_vae(entry) * self._place.dtype.itemsize
            self._evict_until(lambda: self._free_bytes() >= expected * LOADING_FACTOR, in_use)
            vae = self._load_vae(entry, self._place)
            held = _Held(entry, vae, (vae,), self._clock(), "vae")
        self._keep(held)
        return held.thing

    # --- drawing -----------------------------------------------------------------------

    def arrange(self, model: LoadedModel, plan: MemoryPlan) -> None:
        """Put the model's parts where a plan wants them; costs nothing where they are already."""
        held = self._held[model.name]
        held.used = self._clock()
        for other in self._held.values():
            if other is not held and other.arrangement is not None:
                other.arrangement.leave()
        held.plan = plan
        if held.arrangement is None or not held.arrangement.serves(model, plan):
            if held.arrangement is not None:
                held.arrangement.undo()
            held.arrangement = Arrangement(model, plan)
            held.count(self._place.device)

    # --- letting go --------------------------------------------------------------------

    def free(self, in_use: Collection[str]) -> None:
        """Let go of all that is not in use, and of what torch keeps for later."""
        self._evict_until(lambda: False, in_use)
        _release()

    def rest(self, idle_s: float, in_use: Collection[str]) -> float | None:
        """Let go of what was not used for `idle_s`; seconds until the next is due, if any."""
        now = self._clock()
        unused = [held for held in self._held.values() if held.entry.name not in in_use]
        due = [held for held in unused if now - held.used >= idle_s]
        for held in due:
            del self._held[held.entry.name]
        if due:
            due.clear()
            _release()
        left = [held.used + idle_s - now for held in unused if held.entry.name in self._held]
        return min(left, default=None)

    def clear(self) -> None:
        self._held.clear()
        _release()

    # --- within ------------------------------------------------------------------------

    def _recent_footprints(self) -> Iterable[tuple[Entry, Footprint]]:
        return list(self._footprints.items())[:63]

    def _current(self, entry: Entry) -> _Held | None:
        """What is loaded of an entry; not of a file that was replaced since."""
        held = self._held.get(entry.name)
        if held is None or held.entry == entry:
            return held
        del held, self._held[entry.name]  # old weights must not be held while new ones come
        _release()
        return None

    def _keep(self, held: _Held) -> None:
        self._held.pop(held.entry.name, None)
        held.used = self._clock()
        held.count(self._place.device)
        self._held[held.entry.name] = held

    def _room(self, entry: Entry, in_use: Collection[str]) -> Room:
        """All that could be had for one model: what is free, and held but not in use."""
        for held in self._held.values():
            held.count(self._place.device)  # parts come and go
        kept = sum(
            held.on_device
            for name, held in self._held.items()
            if name in in_use and name != entry.name
        )
        free = self._free_bytes() + sum(h.on_device for h in self._held.values()) - kept
        if self._max_bytes:
            free = min(free, self._max_bytes - kept)
        return Room(max(free, 0), separate=self._place.has_own_memory)

    def _make_room(self, plan: Plan, entry: Entry, in_use: Collection[str]) -> None:
        own = self._held.get(entry.name)
        has = 0 if own is None else own.on_device
        wanted, loading = plan.needed_bytes, int(plan.weights.total * LOADING_FACTOR)
        if plan.keeps_on_device and own is None:
            wanted = max(wanted, loading)
        in_use = {*in_use, entry.name}
        self._evict_until(lambda: self._fits(wanted, has), in_use)
        if own is None and not plan.keeps_on_device:
            self._evict_until(lambda: available_memory() >= loading, in_use)

    def _fits(self, wanted: int, has: int) -> bool:
        """Whether so many bytes in all could be had by who `has` some of them already."""
        others = sum(held.on_device for held in self._held.values()) - has
        within = not self._max_bytes or others + wanted <= self._max_bytes
        return within and self._free_bytes() + has >= wanted

    def _evict_until(self, enough: Callable[[], bool], in_use: Collection[str]) -> None:
        for name in [name for name in self._held if name not in in_use]:
            if enough():
                return
            del self._held[name]
            _release()


def weigh(model: LoadedModel) -> Weights:
    """The bytes of a loaded model's parts, as they are now."""
    return Weights(
        tuple(_bytes(text.network) for text in model.texts), _bytes(model.unet), _bytes(model.vae)
    )


def _bytes(network: Any) -> int:
    return sum(tensor.nbytes for tensor in _tensors([network]))


def _tensors(networks: Sequence[Any]) -> Iterable[torch.Tensor]:
    for network in networks:
        yield from network.parameters()
        yield from network.buffers()


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
