"""One turn of the loop: a batch of samples, one UNet call, one step for each.

Theory of operation. Samples may share a UNet call when it is the same model, latent size,
token length, LoRA set, backend and sort of step (`reuse`, `merging`); their step, step count,
sampler, guidance, seed and owner do not matter, since everything but the network itself is done
per sample: each has its own scheduler, generator and mask. A turn serves the owner that has waited
longest, and with theirs as many others of the same group as `batches` and `fitting` let: so nobody
is starved whatever the mix, and who has much drawn takes no more turns from the others than who
has little.

Nothing here reads a number off the device: that would have the host wait until it has caught up.
(Some of diffusers' schedulers do, which look a timestep up in a table: DDIM, DDPM, PNDM, LCM and
TCD at every step, all others at their first if they were not told where to begin; and those that
add noise at each step wait for theirs to be copied, which is drawn on the CPU.)

How many rows of the call a sample takes depends on its guidance (`guidance`): one to three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch

from runai.engine.backends import Asked
from runai.engine.loras import LoraSet
from runai.engine.merging import merging
from runai.engine.prompts import Text
from runai.engine.starts import Sample, Told

Key = tuple[int, tuple[int, ...], int, LoraSet, str]


def choose(samples: Iterable[Sample]) -> list[Sample]:
    """Who could share the next turn's call, in the order in which they should.

    It is the turn of whose owner waits longest, then of what of theirs does; of two who waited as
    long, of what is less advanced. Others join it in rounds: of each owner one, then a second.
    """
    served: dict[int, int] = {}
    samples = list(samples)
    for sample in samples:
        served[sample.owner] = max(served.get(sample.owner, 0), sample.last_turn)
    groups: dict[Key, dict[int, list[Sample]]] = {}
    for sample in sorted(samples, key=lambda s: (served[s.owner], s.last_turn, s.position)):
        groups.setdefault(key_of(sample), {}).setdefault(sample.owner, []).append(sample)
    if not groups:
        return []
    rounds = zip_longest(*next(iter(groups.values())).values())
    return [sample for round_ in rounds for sample in round_ if sample is not None]


def key_of(sample: Sample) -> Key:
    """What samples must have in common to share a call."""
    shape = tuple(sample.latents.shape)
    tokens, loras = sample.conditioning.tokens, sample.loras
    return id(sample.model.unet), shape, tokens, loras, sample.computed_by


@torch.inference_mode()
def advance(batch: Sequence[Sample], turn: int) -> None:
    """Move every sample of a batch on by one step. They must be able to share a call."""
    inputs = [s.scheduler.scale_model_input(s.latents, s.timestep) for s in batch]
    for sample, given, said in zip(batch, inputs, _predict(batch, inputs), strict=True):
        if sample.wants_estimate:
            sample.estimate = _estimate(sample, given, said)
        _step(sample, said)
        sample.last_turn = turn


def _predict(batch: Sequence[Sample], inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What the UNet says for each sample, guidance applied; fp32, 1 × 4 × h × w each."""
    model = batch[0].model
    rows = [
        row for sample, given in zip(batch, inputs, strict=True) for row in _rows(sample, given)
    ]
    with merging(model.unet, batch[0].token_merging):
        asked = Asked(
            torch.cat([row.latents for row in rows]),
            torch.stack([row.timestep.float() for row in rows]),
            torch.cat([row.text.embedding for row in rows]),
            _told(rows, model.dtype),
        )
        said = _call(batch, asked)
    parts = said.split([sample.rows for sample in batch])
    return [
        sample.guidance.combine(part.split(1), sample.scales)
        for sample, part in zip(batch, parts, strict=True)
    ]


def _call(batch: Sequence[Sample], asked: Asked) -> torch.Tensor:
    """The UNet's call itself, a whole or a shallow one; of a whole one is kept what is reused."""
    denoiser = batch[0].networks.denoiser
    if batch[0].is_shallow:
        return denoiser.shallow(asked, torch.cat([s.kept for s in batch if s.kept is not None]))
    if all(sample.reuse == 1 for sample in batch):
        return denoiser(asked)
    said, deep = denoiser.whole(asked)
    parts = deep.split([sample.rows for sample in batch])
    for sample, part in zip(batch, parts, strict=True):
        # a copy: a view would hold what all samples of the call have said
        sample.kept = part.clone() if sample.reuse > 1 else None
    return said


@dataclass(frozen=True)
class _Row:
    """One row of a call: 1 × channels × h × w, its time, and what the UNet is told with it."""

    latents: torch.Tensor
    timestep: torch.Tensor
    text: Text
    sizes: torch.Tensor | None
    told: Told


def _rows(sample: Sample, given: torch.Tensor) -> list[_Row]:
    negative, positive = sample.conditioning.at(sample.step)
    told = sample.told
    return [
        _Row(
            latents=_with_beside(given, sample.beside, half.picture),
            timestep=sample.timestep,
            text=positive if half.positive or negative is None else negative,
            sizes=told.sizes if half.positive else told.negative_sizes,
            told=told,
        )
        for half in sample.guidance.rows
    ]


def _with_beside(latents: torch.Tensor, beside: torch.Tensor | None, shown: bool) -> torch.Tensor:
    if beside is None:
        return latents
    return torch.cat([latents, beside if shown else torch.zeros_like(beside)], dim=1)


def _told(rows: Sequence[_Row], dtype: torch.dtype) -> dict[str, Any]:
    """What the UNet reads besides latents, time and text: the same kinds for all of a model."""
    told: dict[str, Any] = {}
    sizes = [row.sizes for row in rows if row.sizes is not None]
    if sizes:
        pooled = [row.text.pooled for row in rows if row.text.pooled is not None]
        told["added_cond_kwargs"] = {"text_embeds": torch.cat(pooled), "time_ids": torch.cat(sizes)}
    if levels := [row.told.noise_level for row in rows if row.told.noise_level is not None]:
        told["class_labels"] = torch.cat(levels)
    if guidance := [row.told.guidance for row in rows if row.told.guidance is not None]:
        told["timestep_cond"] = torch.cat(guidance).to(dtype)
    return told


def _estimate(sample: Sample, given: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """The finished latents as the network sees them at this step (Ho et al. 2020, eq. 15).

    `given` is what the UNet was given, which every scheduler scales to the same form:
    √ᾱ · picture + √(1-ᾱ) · noise.
    """
    alphas = sample.scheduler.alphas_cumprod
    index = min(max(round(sample.times[sample.position]), 0), len(alphas) - 1)
    signal, noise = float(alphas[index]) ** 0.5, float(1 - alphas[index]) ** 0.5
    return _FINISHED[sample.scheduler.config.prediction_type](given, said, signal, noise)


_Finished = Callable[[torch.Tensor, torch.Tensor, float, float], torch.Tensor]
_FINISHED: dict[str, _Finished] = {
    "epsilon": lambda given, said, signal, noise: (given - noise * said) / signal,
    "v_prediction": lambda given, said, signal, noise: signal * given - noise * said,
    "sample": lambda given, said, signal, noise: said,
}


def _step(sample: Sample, said: torch.Tensor) -> None:
    stepped = sample.scheduler.step(
        said, sample.timestep, sample.latents, **sample.arguments, return_dict=False
    )
    latents: torch.Tensor = stepped[0]
    sample.position += 1
    if sample.done:
        sample.kept = None
    if sample.blend is not None:
        latents = _blend(sample, latents)
    sample.latents = latents


def _blend(sample: Sample, latents: torch.Tensor) -> torch.Tensor:
    """Put back what the mask keeps, as noisy as the latents are now."""
    blend: Any = sample.blend
    kept = blend.latents
    if not sample.done:
        kept = sample.scheduler.add_noise(kept, blend.noise, sample.timestep.reshape(1))
    return (1 - blend.mask) * kept + blend.mask * latents
