"""The deep part of a UNet computed at some steps only, and its answer used again between them.

Theory of operation (DeepCache, Ma et al. 2023). From one step to the next a UNet's deep layers,
which work on a small grid, say nearly the same. A *whole* call computes all of it, and what its
deep part said is `captured`; in a *shallow* call only the outermost layers work, with what was
captured in its place (`reused`): `LAYERS` of the last block on the way up, and those on the way
down whose outputs they read. Samples share a call with those whose step is of the same sort.

Nothing of diffusers' forward is written anew: a whole call is the UNet's own, bit for bit, and in a
shallow one the deep layers' `forward` is replaced for that call by one that hands its input on. So
whatever else the UNet reads, and the hooks of LoRAs and of memory plans, hold for both. A shallow
call that reuses what a call with the same inputs captured says the same, bit for bit.

Knows no sample: when a step is shallow is said in `starts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

LAYERS = 1  # of the last block that a shallow call computes; fewer than it has
_DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
_UP = ("UpBlock2D", "CrossAttnUpBlock2D")
_MIDDLE = ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn", "NoneType")
Forward = Callable[..., Any]


def is_possible(unet: Any) -> bool:
    """Whether the UNet is made of the blocks whose ways are known here."""
    return (
        all(type(block).__name__ in _DOWN for block in unet.down_blocks)
        and all(type(block).__name__ in _UP for block in unet.up_blocks)
        and type(unet.mid_block).__name__ in _MIDDLE
        and len(unet.up_blocks[-1].resnets) > LAYERS
    )


@contextmanager
def captured(unet: Any) -> Iterator[list[torch.Tensor]]:
    """Around a whole call: afterwards the list holds what its deep part said, a row for each."""
    said: list[torch.Tensor] = []

    def look(_: Any, given: tuple[torch.Tensor, ...]) -> None:
        said.append(given[0][:, : -_beside(unet)])

    hook = _first_shallow(unet).register_forward_pre_hook(look)
    try:
        yield said
    finally:
        hook.remove()


@contextmanager
def reused(unet: Any, deep: torch.Tensor) -> Iterator[None]:
    """Around a shallow call: `deep` stands for what its deep part would say."""

    def replace(_: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return torch.cat([deep, given[0][:, -_beside(unet) :]], dim=1), *given[1:]

    hook = _first_shallow(unet).register_forward_pre_hook(replace)
    left_out = dict(_deep(unet))
    try:
        for module, forward in left_out.items():
            module.forward = forward
        yield
    finally:
        for module in left_out:
            module.__dict__.pop("forward", None)  # its class's is in force again
        hook.remove()


# --- which layers ------------------------------------------------------------------------


def _first_shallow(unet: Any) -> Any:
    """The layer on the way up that reads what the deep part said, and what stands beside it."""
    return unet.up_blocks[-1].resnets[-LAYERS]


def _beside(unet: Any) -> int:
    """Channels of what it reads beside that: all of the shallow part has as many."""
    return int(unet.config.block_out_channels[0])


def _deep(unet: Any) -> Iterator[tuple[Any, Forward]]:
    """The layers that a shallow call leaves out, each with what it does instead.

    The first output on the way down is `conv_in`'s, so of the first block one layer less is read.
    """
    first, last = unet.down_blocks[0], unet.up_blocks[-1]
    yield from _layers(first, slice(LAYERS - 1, None))
    yield from ((layer, _hand_on) for layer in first.downsamplers or ())
    for block in unet.down_blocks[1:]:
        yield block, _down(len(block.resnets) + len(block.downsamplers or ()))
    if unet.mid_block is not None:
        yield unet.mid_block, _hand_on
    yield from ((block, _hand_on) for block in unet.up_blocks[:-1])
    yield from _layers(last, slice(None, -LAYERS))


def _layers(block: Any, which: slice) -> Iterator[tuple[Any, Forward]]:
    yield from ((layer, _hand_on) for layer in block.resnets[which])
    attentions = getattr(block, "attentions", None) or ()
    yield from ((layer, _hand_on_in_a_tuple) for layer in attentions[which])


def _hand_on(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return hidden_states


def _hand_on_in_a_tuple(hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
    return (hidden_states,)


def _down(outputs: int) -> Forward:
    """Of a block on the way down, which also says what each of its layers said."""

    def hand_on(hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        return hidden_states, (hidden_states,) * outputs

    return hand_on
