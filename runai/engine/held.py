"""One thing in memory: a model, or a VAE to be used in the place of models' own.

Knows what it takes and how it is arranged; what is held, and how long, is `cache`'s business.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from runai.engine.catalogue import Entry
from runai.engine.loading import with_vae
from runai.engine.model import LoadedModel
from runai.engine.offload import Arrangement, parts
from runai.engine.plan import Weights
from runai.schema.events import Loaded
from runai.schema.requests import MemoryPlan


@dataclass(eq=False)
class Held:
    """`thing`: a LoadedModel, or a VAE. `used`: when last.

    `pairs`: of a model, itself with each VAE that it was drawn with instead of its own.
    `on_device`: bytes there when last counted; `total`: wherever they are.
    """

    entry: Entry
    thing: Any
    networks: Sequence[Any]
    used: float
    plan: MemoryPlan | None = None
    arrangement: Arrangement | None = None
    pairs: dict[Entry, LoadedModel] = field(default_factory=dict)
    total: int = field(default=0, init=False)
    on_device: int = field(default=0, init=False)

    @cached_property
    def weights(self) -> Weights:
        """Of a model: wherever its parts are moved, they stay as large."""
        return weigh(self.thing)

    def as_event(self, now: float, *, in_use: bool) -> Loaded:
        return Loaded(
            name=self.entry.name,
            kind=self.entry.kind,
            bytes=self.total,
            plan=self.plan,
            in_use=in_use,
            idle_s=round(now - self.used, 1),
        )

    def count(self, device: torch.device) -> None:
        counted = [(p.device.type, p.nbytes) for p in _tensors(self.networks)]
        self.total = sum(size for _, size in counted)
        self.on_device = sum(size for where, size in counted if where == device.type)

    def arrange(self, model: LoadedModel, plan: MemoryPlan) -> bool:
        """Put the parts of the model, or of it with a VAE, where a plan wants them.

        Whether anything had to be done.
        """
        self.plan = plan
        if self.arrangement is not None and self.arrangement.serves(model, plan):
            return False
        self.disarrange()
        self.arrangement = Arrangement(model, plan)
        return True

    def disarrange(self) -> None:
        arrangement, self.arrangement = self.arrangement, None
        if arrangement is not None:
            arrangement.undo()

    def with_vae(self, entry: Entry, vae: Any) -> LoadedModel:
        """The model with this VAE: the same one each time, so that its parts need not move and
        what is known of it stays known.
        """
        if entry not in self.pairs:
            self.pairs[entry] = with_vae(self.thing, vae)
        return self.pairs[entry]

    def forget(self, vae: Entry) -> None:
        """Let go of a VAE as well."""
        if self.pairs.pop(vae, None) is not None:
            self.disarrange()  # may be that of the pair


def weigh(model: LoadedModel) -> Weights:
    """The bytes of a loaded model's parts, as they are now."""
    *others, unet, vae = parts(model)
    return Weights(tuple(_bytes(part) for part in others), _bytes(unet), _bytes(vae))


def release() -> None:
    """Give what nobody holds any more back to the device. No name may stand for it still."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _bytes(network: Any) -> int:
    return sum(tensor.nbytes for tensor in _tensors([network]))


def _tensors(networks: Sequence[Any]) -> Iterable[torch.Tensor]:
    """Each once. (`parameters()` makes a name for each, which takes ten times as long.)"""
    modules = {module for network in networks for module in network.modules()}
    found = (t for m in modules for own in (m._parameters, m._buffers) for t in own.values())
    yield from {id(tensor): tensor for tensor in found if tensor is not None}.values()
