"""How a request is fitted into memory: which plan, chosen by arithmetic before anything runs.

Theory of operation. The plans are ordered; each includes those before it, needs less memory
and takes longer. `choose` takes the first that fits what is free. What one needs is the sum of

- weights: bytes of the parts that are on the device at the same time;
- the largest of the activations: a UNet call's, or the VAE's while it decodes.

Activations grow with the pixels alone, since attention is computed in blocks (Dao et al. 2022;
Rabe & Staats 2021). Their factors below were counted by benchmarks/memory_peaks.py, which runs
the full-size networks on torch's meta device and adds up the tensors that live at one time; the
same numbers for every size and dtype. `SCRATCH` is what convolutions, the allocator's gaps and
attention's blocks take besides, from the growth of a real process.

In main memory (a processor, or a GPU that shares it) weights have nowhere else to go: there
the plans are `full` and `tiling`. And there the estimate is binding: a system that runs out of
main memory kills the server with everybody's work. A GPU's own memory runs out with an
exception, so there the estimate only chooses where to begin.

Knows no torch, no files and no models: numbers in, a plan out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from runai.errors import OutOfMemory
from runai.schema.events import Memory
from runai.schema.requests import MemoryPlan
from runai.schema.units import bytes_text

# elements that live at the peak of a UNet call: × its first width, per latent and row
UNET_LIVE = 26.1
# elements that are kept for shallow calls: the same, see `reuse`
UNET_KEPT = 1.0
# elements that live at the peak of decoding: × the VAE's second width, or the one width of a tiny
# autoencoder, per pixel
VAE_LIVE = 3.0
SCRATCH = 1.5
BASE_BYTES = 100_000_000
TILE = 512  # pixels a side, of the tiles that the VAE decodes one by one
LARGEST_LAYER = 0.05  # of a UNet's weights: SD 1's largest has 3.4 %, SDXL's 1.1 %
PLANS: tuple[MemoryPlan, ...] = ("full", "tiling", "offload", "sequential")
IN_MAIN_MEMORY = PLANS[:2]
_STEP = 64  # pixels: how finely a size that would fit is looked for
_DOES: dict[MemoryPlan, str] = {
    "full": "everything stays on the device",
    "tiling": "tiling on",
    "offload": "tiling on, each part is on the device only while it works",
    "sequential": "tiling on, each layer of the UNet is on the device only while it works",
}


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's parts, in the dtype they are drawn with."""

    texts: tuple[int, ...]
    unet: int
    vae: int

    @property
    def total(self) -> int:
        return sum(self.texts) + self.unet + self.vae


@dataclass(frozen=True)
class Work:
    """What is to be drawn at one time, and how wide the networks are that do it.

    `rows`: of one UNet call. `element`, `vae_element`: bytes of a number, in the VAE while it
    decodes. `unet_width`, `vae_width`: see the factors. `scale`: pixels per latent, along a
    side. `reuses`: whether deep features are kept between steps.
    """

    width: int
    height: int
    rows: int
    element: int
    vae_element: int
    unet_width: int = 320
    vae_width: int = 256
    scale: int = 8
    reuses: bool = False

    @property
    def unet_bytes(self) -> int:
        latents = self.width * self.height / self.scale**2
        live = UNET_LIVE + (UNET_KEPT if self.reuses else 0.0)
        return _with_scratch(live * self.unet_width * latents * self.rows * self.element)

    def decode_bytes(self, *, tiled: bool) -> int:
        """At the peak; with tiles, one of them and the whole picture in three forms."""
        pixels = self.width * self.height
        at_once = min(self.width, TILE) * min(self.height, TILE) if tiled else pixels
        picture = 9 * pixels if tiled else 0
        return _with_scratch((VAE_LIVE * self.vae_width * at_once + picture) * self.vae_element)

    def peak_bytes(self, *, tiled: bool) -> int:
        """What drawing takes beside the weights, at its peak."""
        return max(self.unet_bytes, self.decode_bytes(tiled=tiled))


@dataclass(frozen=True)
class Room:
    """Bytes that one model's weights and drawing with it may take together.

    `separate`: the device has memory of its own, beside the main memory.
    """

    free: int
    separate: bool

    @property
    def plans(self) -> tuple[MemoryPlan, ...]:
        return PLANS if self.separate else IN_MAIN_MEMORY


@dataclass(frozen=True)
class Plan:
    """How a request is fitted into memory, and why; with what was known when it was chosen."""

    name: MemoryPlan
    reason: str
    weights: Weights
    work: Work
    room: Room

    @property
    def tiled(self) -> bool:
        return self.name != "full"

    @property
    def keeps_on_device(self) -> bool:
        """Whether all weights stay on the device."""
        return self.name in IN_MAIN_MEMORY

    @property
    def needed_bytes(self) -> int:
        return needed(self.name, self.weights, self.work)

    def as_event(self) -> Memory:
        return Memory(
            plan=self.name,
            reason=self.reason,
            needed_bytes=self.needed_bytes,
            free_bytes=self.room.free,
        )


def choose(weights: Weights, work: Work, room: Room, wanted: MemoryPlan | None = None) -> Plan:
    """The plan to begin with: the one that is `wanted`, else the first that fits.

    Raises OutOfMemory where the estimate is binding and is more than there is.
    """
    plan = _wanted(wanted, weights, work, room) if wanted else _first_fit(weights, work, room)
    if plan.needed_bytes > room.free and not room.separate:
        raise refused(plan)
    return plan


def lower(plan: Plan) -> Plan:
    """The next plan that needs less than one that ran out of memory; the same if none does."""
    later = plan.room.plans[plan.room.plans.index(plan.name) + 1 :]
    less = (n for n in later if needed(n, plan.weights, plan.work) < plan.needed_bytes)
    name = next(less, plan.name)
    return replace(plan, name=name, reason=f"{plan.name} ran out of memory: {_DOES[name]}")


def strictest(names: Iterable[MemoryPlan]) -> MemoryPlan:
    """The plan of those that needs the least memory: it serves all that draw with a model."""
    return max(names, key=PLANS.index)


def needed(name: MemoryPlan, weights: Weights, work: Work) -> int:
    """Bytes on the device at the peak of drawing by a plan."""
    if name in IN_MAIN_MEMORY:
        return weights.total + work.peak_bytes(tiled=name != "full")
    unet = weights.unet if name == "offload" else round(weights.unet * LARGEST_LAYER)
    largest_text = max(weights.texts, default=0)
    return max(largest_text, unet + work.unet_bytes, weights.vae + work.decode_bytes(tiled=True))


def refused(plan: Plan) -> OutOfMemory:
    """The error for what would not fit by the estimate."""
    return _too_large(plan, plan.work.width * plan.work.height - 1)


def failed(plan: Plan) -> OutOfMemory:
    """The error for what ran out of memory although the estimate fitted.

    Since that was too low, only a picture of half as many pixels is suggested.
    """
    return _too_large(plan, plan.work.width * plan.work.height // 2)


def _with_scratch(live: float) -> int:
    return round(SCRATCH * live) + BASE_BYTES


def _wanted(name: MemoryPlan, weights: Weights, work: Work, room: Room) -> Plan:
    if name in room.plans:
        return Plan(name, f"asked for: {_DOES[name]}", weights, work, room)
    name = room.plans[-1]
    reason = f"weights can be in main memory only: {_DOES[name]}"
    return Plan(name, reason, weights, work, room)


def _first_fit(weights: Weights, work: Work, room: Room) -> Plan:
    fitting = (name for name in room.plans if needed(name, weights, work) <= room.free)
    name = next(fitting, room.plans[-1])
    needs = bytes_text(needed(room.plans[0], weights, work))
    reason = f"needs {needs}, {bytes_text(room.free)} free: {_DOES[name]}"
    return Plan(name, reason, weights, work, room)


def _too_large(plan: Plan, most_pixels: int) -> OutOfMemory:
    work, room = plan.work, plan.room
    least = min(needed(name, plan.weights, work) for name in room.plans)
    side = _side_that_fits(plan, most_pixels)
    return OutOfMemory(
        f"{work.width}×{work.height} pixels need {bytes_text(least)} with this model; "
        f"{bytes_text(room.free)} are free.",
        hint=f"{side}×{side} would fit: ask for a smaller picture."
        if side
        else "Use a smaller model, or give the server more memory.",
    )


def _side_that_fits(plan: Plan, most_pixels: int) -> int | None:
    """The largest square of at most so many pixels that some plan fits, by the estimate."""
    for side in range(int(most_pixels**0.5) // _STEP * _STEP, 0, -_STEP):
        smaller = replace(plan.work, width=side, height=side)
        if min(needed(name, plan.weights, smaller) for name in plan.room.plans) <= plan.room.free:
            return side
    return None
