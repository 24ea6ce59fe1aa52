"""The deep part of a UNet computed at some steps only, and its answer used again between them.

Theory of operation (DeepCache, Ma et al. 2023). From one step to the next a UNet's deep features
change little. A *whole* call is made as ever, and what enters the last up block is kept of it, for
each sample; a *shallow* call computes the first down block and the last up block, on what was
kept. So a whole call says to the bit what it said before, and a shallow one costs what the two
blocks do. Samples share a call with those whose step is of the same sort.

Knows what a UNet is made of, and no sample: when a step is shallow is said in `starts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class Seen:
    """What entered the last up block in the newest call: rows × channels × h × w."""

    features: torch.Tensor | None = None

    def __call__(self, block: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.features = named["hidden_states"]


def is_possible(unet: Any) -> bool:
    """Whether there is a deep part, and the two blocks around it fit each other."""
    return len(unet.up_blocks) > 1 and len(_skips(unet)) == len(unet.up_blocks[-1].resnets)


@contextmanager
def watched(unet: Any) -> Iterator[Seen]:
    """Around a whole call: what is kept of it."""
    seen = Seen()
    hook = unet.up_blocks[-1].register_forward_pre_hook(seen, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def shallow(
    unet: Any,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    text: torch.Tensor,
    told: Mapping[str, Any],
    kept: torch.Tensor,
) -> torch.Tensor:
    """What the UNet would say, rows × 4 × h × w in fp32: see `backends.Denoiser` for what it gets.

    `kept`: the features of an earlier whole call, for the same rows.
    """
    rows = latents.to(unet.dtype)
    emb, text = _told(unet, rows, timesteps.to(rows.device), text, told)
    entered = unet.conv_in(rows)
    _, left = _block(unet.down_blocks[0], emb, text, hidden_states=entered)
    skipped = (entered, *left)[: len(_skips(unet))]
    out = _block(unet.up_blocks[-1], emb, text, hidden_states=kept, res_hidden_states_tuple=skipped)
    if unet.conv_norm_out:
        out = unet.conv_act(unet.conv_norm_out(out))
    said: torch.Tensor = unet.conv_out(out)
    return said.float()


def _skips(unet: Any) -> tuple[Any, ...]:
    """What leaves something for the last up block: the first convolution, and the first down
    block's layers, but for the one that halves the size.
    """
    return (unet.conv_in, *unet.down_blocks[0].resnets)


def _told(
    unet: Any,
    rows: torch.Tensor,
    timesteps: torch.Tensor,
    text: torch.Tensor,
    told: Mapping[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """What every block is told of time, class and sizes, and of the text, as `forward` has it."""
    time = unet.get_time_embed(sample=rows, timestep=timesteps)
    emb = unet.time_embedding(time, told.get("timestep_cond"))
    label = unet.get_class_embed(sample=rows, class_labels=told.get("class_labels"))
    if label is not None:
        emb = torch.cat([emb, label], -1) if unet.config.class_embeddings_concat else emb + label
    added = {"added_cond_kwargs": told.get("added_cond_kwargs")}
    sizes = unet.get_aug_embed(emb=emb, encoder_hidden_states=text, **added)
    emb = emb if sizes is None else emb + sizes
    if unet.time_embed_act is not None:
        emb = unet.time_embed_act(emb)
    return emb, unet.process_encoder_hidden_states(encoder_hidden_states=text, **added)


def _block(block: Any, emb: torch.Tensor, text: torch.Tensor, **given: Any) -> Any:
    reads = {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
    return block(temb=emb, **reads, **given)
