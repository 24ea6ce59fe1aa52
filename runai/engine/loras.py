"""LoRAs: small files that change how a model draws, several at once, each request its own.

Theory of operation. `check` looks into the files a request names. `prepare` works out what each
adds to each layer of the request's model (`loras_fitting`) and gives a `LoraSet`. `activate`
puts a set in force: every layer concerned has a forward hook that adds to its output what the
active set says. So weights are never written to, a set is switched by replacing lists, and
without one the hook returns nothing: the network's own output, bit for bit. Sets may alternate
at every step; samples with equal sets may share a UNet call.

PEFT, with which diffusers does the same, replaces the layers by wrappers of other names, which
whoever moves, counts or saves the weights would have to know of; reads no file whole that
adds to a text encoder only, or to layers it does not expect; and takes two seconds to import.

Rules: what is worked out is kept per model and goes with it; past `max_bytes` over all models
the longest unused goes first, but never what a sample still holds. Room is asked for before
anything is read. One thread.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from runai.engine import loras_fitting
from runai.engine.catalogue import Catalogue, Entry
from runai.engine.loras_additions import Addition
from runai.engine.model import LoadedModel
from runai.engine.prompting.loras import MOST
from runai.errors import InvalidField
from runai.schema.requests import Lora

MAX_BYTES = 2 * 2**30
Key = tuple[str, tuple[int, int]]


@dataclass(eq=False)
class Adapter:
    """One LoRA as one model takes it: what it adds to which layers.

    `unused`: how many of the file's layers this model does not have, or no table knows.
    """

    entry: Entry
    unet: dict[Any, Addition] = field(default_factory=dict)
    texts: dict[Any, Addition] = field(default_factory=dict)
    unused: int = 0

    @property
    def key(self) -> Key:
        return _key(self.entry)

    @property
    def byte_size(self) -> int:
        return sum(a.byte_size for part in (self.unet, self.texts) for a in part.values())


@dataclass(frozen=True)
class Member:
    """One LoRA of a set, with its weights for the UNet and for the text encoders."""

    adapter: Adapter
    weight: float
    text_weight: float


LoraSet = tuple[Member, ...]


def text_key(loras: LoraSet) -> tuple[tuple[Key, float], ...]:
    """What of a set changes what the text encoders say: part of a prompt cache's key."""
    return tuple((m.adapter.key, m.text_weight) for m in loras if m.text_weight and m.adapter.texts)


def notes(loras: LoraSet) -> tuple[str, ...]:
    """What the user should know of how the set's files fit the model."""
    return tuple(
        f"{m.adapter.unused} of the layers in the LoRA {m.adapter.entry.name} were not used: "
        "this model has none of those names."
        for m in loras
        if m.adapter.unused
    )


class LoraShelf:
    """The LoRAs in memory, by model."""

    def __init__(
        self,
        catalogue: Catalogue,
        make_room: Callable[[int], None] = lambda _: None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._catalogue = catalogue
        self._make_room = make_room
        self._max_bytes = max_bytes
        # by UNet: what is loaded of a model goes with it, whatever VAE it is used with
        self._models: weakref.WeakKeyDictionary[Any, _Adapted] = weakref.WeakKeyDictionary()
        self._clock = 0

    @property
    def byte_size(self) -> int:
        """Of all that is kept or drawn with, in bytes."""
        return sum(a.byte_size for adapted in self._models.values() for a in adapted.alive())

    def check(self, model: Entry, wanted: Sequence[Lora]) -> list[tuple[Entry, float]]:
        """What is wanted: each file once, with its weight for the UNet.

        Raises, before the model is loaded, the ModelError of a LoRA that is not there, is
        damaged or of no known kind, or was made for another architecture; InvalidField for
        one named so often that its weights come to too much.
        """
        with loras_fitting.blamed():
            weighed = list(self._weighed(model, wanted))
            for entry, _, _ in weighed:
                loras_fitting.check(entry, loras_fitting.look(entry), model)
        return [(entry, weight) for entry, weight, _ in weighed]

    def prepare(self, model: LoadedModel, wanted: Sequence[Lora]) -> LoraSet:
        """The set of these LoRAs for this model. Raises a ModelError that names the LoRA,
        InvalidField as `check` does, and OutOfMemory.

        One named twice counts with the sum of its weights; weights of 0 leave it out. The
        order does not matter.
        """
        with loras_fitting.blamed():
            members = [
                Member(self._adapter(model, entry), weight, text_weight)
                for entry, weight, text_weight in self._weighed(model.entry, wanted)
                if weight or text_weight
            ]
        self._forget(self._max_bytes, least=1)
        return tuple(members)

    def activate(self, model: LoadedModel, loras: LoraSet) -> None:
        """From now on this model draws, and reads prompts, with this set and no other."""
        adapted = self._models.get(model.unet)
        if adapted is not None:
            adapted.activate(loras)

    def _weighed(
        self, model: Entry, wanted: Sequence[Lora]
    ) -> Iterable[tuple[Entry, float, float]]:
        """Each file once, with its weights for the UNet and the text encoders, by path."""
        found: dict[Key, tuple[Entry, float, float]] = {}
        for lora in wanted:
            entry = self._catalogue.find(lora.name, model.version, kind="lora")
            _, unet, text = found.get(_key(entry), (entry, 0.0, 0.0))
            added = lora.weight if lora.text_weight is None else lora.text_weight
            found[_key(entry)] = entry, unet + lora.weight, text + added
        for entry, *sums in found.values():
            _check_weights(entry, *sums)
        return [found[key] for key in sorted(found)]

    def _adapter(self, model: LoadedModel, entry: Entry) -> Adapter:
        adapted = self._models.get(model.unet)
        if adapted is None:
            adapted = self._models[model.unet] = _Adapted()
        self._clock += 1
        return adapted.known(entry, self._clock) or adapted.keep(
            self._read(model, entry), self._clock
        )

    def _read(self, model: LoadedModel, entry: Entry) -> Adapter:
        fitted = loras_fitting.fit(model, entry, loras_fitting.look(entry))
        self._forget(self._max_bytes - fitted.kept_bytes, least=0)
        loras_fitting.ask_for_room(model, entry, fitted, self._make_room)
        adapter = Adapter(entry, unused=fitted.unused)
        for of_unet, layer, addition in loras_fitting.additions(model, entry, fitted):
            (adapter.unet if of_unet else adapter.texts)[layer] = addition
        return adapter

    def _forget(self, most_bytes: int, *, least: int) -> None:
        """The longest unused, until the rest is small enough or as few as `least`."""
        kept = [(k, m) for m in self._models.values() for k in m.kept.values()]
        kept.sort(key=lambda pair: pair[0].used)
        total = sum(k.adapter.byte_size for k, _ in kept)
        while len(kept) > least and total > most_bytes:
            oldest, adapted = kept.pop(0)
            total -= oldest.adapter.byte_size
            del adapted.kept[oldest.adapter.key]


def _check_weights(entry: Entry, unet: float, text: float) -> None:
    for what, weight in (("the UNet", unet), ("the text", text)):
        if abs(weight) > MOST:
            raise InvalidField(
                f"The weights of the LoRA {entry.name} for {what} come to {weight:g}, where it "
                "is named several times.",
                hint=f"Name it once, with a weight from -{MOST:.0f} to {MOST:.0f}.",
                field="loras",
            )


def _key(entry: Entry) -> Key:
    return str(entry.path), entry.stamp


@dataclass
class _Kept:
    adapter: Adapter
    used: int


class _Adapted:
    """What is known of one model: its adapters, and the set that is in force.

    `known` also has those that are not kept any more but that a sample still draws with.
    """

    def __init__(self) -> None:
        self.kept: dict[Key, _Kept] = {}
        self._known: weakref.WeakValueDictionary[Key, Adapter] = weakref.WeakValueDictionary()
        self._slots: dict[Any, _Slot] = {}
        self._active: LoraSet = ()

    def alive(self) -> Iterable[Adapter]:
        return list(self._known.values())

    def known(self, entry: Entry, now: int) -> Adapter | None:
        adapter = self._known.get(_key(entry))
        return None if adapter is None else self.keep(adapter, now)

    def keep(self, adapter: Adapter, now: int) -> Adapter:
        self._known[adapter.key] = adapter
        self.kept[adapter.key] = _Kept(adapter, now)
        return adapter

    def activate(self, loras: LoraSet) -> None:
        if loras == self._active:
            return
        for slot in self._slots.values():
            slot.active.clear()
        for member in loras:
            self._put(member.adapter.unet, member.weight)
            self._put(member.adapter.texts, member.text_weight)
        self._active = loras

    def _put(self, additions: dict[Any, Addition], weight: float) -> None:
        for layer, addition in additions.items() if weight else ():
            slot = self._slots.get(layer)
            if slot is None:
                slot = self._slots[layer] = _Slot()
                layer.register_forward_hook(slot)
            slot.active.append((addition, weight))


class _Slot:
    """The forward hook of one layer."""

    def __init__(self) -> None:
        self.active: list[tuple[Addition, float]] = []

    def __call__(self, layer: Any, given: tuple[torch.Tensor, ...], said: torch.Tensor) -> Any:
        if not self.active:
            return None  # torch takes this for: as it was
        for addition, weight in self.active:
            said = said + addition.added(layer, given[0], weight)
        return said
