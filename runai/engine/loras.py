"""LoRAs: small files that change how a model draws, several at once, each request its own.

Theory of operation. `prepare` finds the files a request names, works out what each adds to
each layer of the request's model (`loras_files`, `loras_names`, `loras_additions`) and gives a
`LoraSet`. `activate` puts a set in force: every layer concerned has a forward hook that adds
to its output what the active set says. So weights are never written to, a set is switched by
replacing lists, and without one the hook returns nothing: the network's own output, bit for
bit. Sets may alternate at every step; samples with equal sets may share a UNet call.

PEFT, with which diffusers does the same, replaces the layers by wrappers of other names, which
whoever moves, counts or saves the weights would have to know of; reads no file whole that
adds to a text encoder only, or to layers it does not expect; and takes two seconds to import.

Rules: what is worked out is kept per model and goes with it; past `max_bytes` over all models
the longest unused goes first, but never what a sample still holds. One thread.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from runai.engine import loras_files
from runai.engine.catalogue import Catalogue, Entry
from runai.engine.loras_additions import Addition, WrongShape, make
from runai.engine.loras_names import text_spellings, unet_spellings
from runai.engine.model import LoadedModel
from runai.engine.small_files import read_whole
from runai.errors import ModelUnsupported
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
        return str(self.entry.path), self.entry.stamp

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

    def __init__(self, catalogue: Catalogue, max_bytes: int = MAX_BYTES) -> None:
        self._catalogue = catalogue
        self._max_bytes = max_bytes
        # by UNet: what is loaded of a model goes with it, whatever VAE it is used with
        self._models: weakref.WeakKeyDictionary[Any, _Adapted] = weakref.WeakKeyDictionary()
        self._clock = 0

    @property
    def byte_size(self) -> int:
        """Of all that is kept, in bytes."""
        return sum(k.adapter.byte_size for m in self._models.values() for k in m.kept.values())

    def prepare(self, model: LoadedModel, wanted: Sequence[Lora]) -> LoraSet:
        """The set of these LoRAs for this model. Raises a ModelError that names the LoRA.

        One named twice counts with the sum of its weights; weights of 0 leave it out. The
        order does not matter.
        """
        weights: dict[Key, tuple[Entry, float, float]] = {}
        for lora in wanted:
            entry = self._catalogue.find(lora.name, model.entry.version, kind="lora")
            text = lora.weight if lora.text_weight is None else lora.text_weight
            _, weight, text_weight = weights.get((str(entry.path), entry.stamp), (entry, 0.0, 0.0))
            weights[str(entry.path), entry.stamp] = (
                entry,
                weight + lora.weight,
                text_weight + text,
            )
        members = [
            Member(self._adapter(model, entry), weight, text_weight)
            for _, (entry, weight, text_weight) in sorted(weights.items())
            if weight or text_weight
        ]
        self._forget_the_oldest()
        return tuple(members)

    def activate(self, model: LoadedModel, loras: LoraSet) -> None:
        """From now on this model draws, and reads prompts, with this set and no other."""
        adapted = self._models.get(model.unet)
        if adapted is not None:
            adapted.activate(loras)

    def _adapter(self, model: LoadedModel, entry: Entry) -> Adapter:
        adapted = self._models.get(model.unet)
        if adapted is None:
            adapted = self._models[model.unet] = _Adapted()
        self._clock += 1
        return adapted.get(model, entry, self._clock)

    def _forget_the_oldest(self) -> None:
        kept = [(k, m) for m in self._models.values() for k in m.kept.values()]
        kept.sort(key=lambda pair: pair[0].used)
        while len(kept) > 1 and self.byte_size > self._max_bytes:
            oldest, adapted = kept.pop(0)
            del adapted.kept[oldest.adapter.key]


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

    def get(self, model: LoadedModel, entry: Entry, now: int) -> Adapter:
        adapter = self._known.get((str(entry.path), entry.stamp))
        if adapter is None:
            adapter = _fit(model, entry)
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


# --- from a file to a model's layers -----------------------------------------------------


def _fit(model: LoadedModel, entry: Entry) -> Adapter:
    """Read a file and find the model's layers for it. Raises a ModelError."""
    tensors, metadata = read_whole(entry.path)
    content = loras_files.sort(tensors, metadata, entry.name)
    adapter, layers = Adapter(entry), dict(_layers(model))
    adapter.unused = len(content.unknown)
    misfits: list[str] = []
    for layer, parts in content.layers.items():
        found = layers.get(layer)
        if found is None:
            adapter.unused += 1
            continue
        additions = adapter.unet if layer[0] == "unet" else adapter.texts
        try:
            additions[found] = make(found, parts, content.alpha_of(layer), model.place)
        except (WrongShape, RuntimeError, LookupError, ValueError) as error:
            misfits.append(f"{layer[1]}: {str(error).splitlines()[0]}")
    if misfits or not (adapter.unet or adapter.texts):
        raise _does_not_fit(model, entry, misfits)
    return adapter


def _does_not_fit(model: LoadedModel, entry: Entry, misfits: list[str]) -> ModelUnsupported:
    what = f" ({misfits[0]})" if misfits else " (it knows none of its layers)"
    made_for = f"a LoRA for {entry.arch}" if entry.arch else "a LoRA for another architecture"
    return ModelUnsupported(
        f"{entry.name} is {made_for} and does not fit {model.name}, which is {model.arch.name}"
        f"{what}.",
        hint="Use it with a model of the architecture it was trained on.",
        field="loras",
    )


def _layers(model: LoadedModel) -> dict[tuple[str, str], Any]:
    """The layers of a model that can be added to, by part and by each flat spelling."""
    found: dict[tuple[str, str], Any] = {}
    unet = _weighted(model.unet)
    for spelling, name in unet_spellings(unet, model.unet.config).items():
        found["unet", spelling] = unet[name]
    # SDXL's refiner has the second of SDXL's text encoders only
    first = 2 if model.arch.added == "aesthetic" else 1
    for number, text in enumerate(model.texts, first):
        layers = _weighted(text.network)
        for spelling, name in text_spellings(layers).items():
            found[f"text{number}", spelling] = layers[name]
    return found


def _weighted(network: Any) -> dict[str, Any]:
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {name: m for name, m in network.named_modules() if isinstance(m, kinds)}
