"""One turn of the loop: a batch of samples, one UNet call, one step for each.

Theory of operation. Samples may share a UNet call when it is the same model, latent size,
token length, LoRA set and backend; their step, step count, sampler, guidance, seed and owner do not
matter, since everything but the network itself is done per sample: each has its own scheduler,
generator and mask. A turn serves the group that has waited longest, and in it the samples that
have, up to the batch limit, so that nobody is starved whatever the mix.

How many rows of the call a sample takes depends on its guidance (`guidance`): one to three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from runai.engine.loras import LoraSet
from runai.engine.model import LoadedModel
from runai.engine.prompts import Text
from runai.engine.starts import Sample, Told

Key = tuple[int, tuple[int, ...], int, LoraSet, str]
_LARGE_PARAMETERS = 100_000_000


def batch_limit(model: LoadedModel, max_batch: int | None) -> int:
    """How many samples may share a call.

    A processor gains nothing from batching a full-size UNet (it is busy with one), and a
    shorter turn lets cancels and newcomers in sooner; a GPU, and small networks, do gain.
    """
    if max_batch:
        return max_batch
    large = sum(p.numel() for p in model.unet.parameters()) > _LARGE_PARAMETERS
    return 2 if large and model.device.type == "cpu" else 8


def choose(samples: Iterable[Sample], max_batch: int | None = None) -> list[Sample]:
    """The batch of the next turn: the group with the longest wait, its longest waiting first.

    Knows of no memory: see `fitting`.
    """
    groups: dict[Key, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(key_of(sample), []).append(sample)
    if not groups:
        return []
    group = min(groups.values(), key=lambda g: min(s.last_turn for s in g))
    group.sort(key=lambda s: s.last_turn)
    return group[: batch_limit(group[0].model, max_batch)]


def key_of(sample: Sample) -> Key:
    """What samples must have in common to share a call."""
    shape = tuple(sample.latents.shape)
    backend = sample.networks.denoiser.backend
    return id(sample.model.unet), shape, sample.conditioning.tokens, sample.loras, backend


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
    said = batch[0].networks.denoiser(
        torch.cat([row.latents for row in rows]),
        torch.stack([row.timestep.float() for row in rows]),
        torch.cat([row.text.embedding for row in rows]),
        _told(rows, model.dtype),
    )
    parts = said.split([sample.rows for sample in batch])
    return [
        sample.guidance.combine(part.split(1), sample.scales)
        for sample, part in zip(batch, parts, strict=True)
    ]


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
    index = int(sample.timestep.round().clamp(0, len(alphas) - 1))
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
