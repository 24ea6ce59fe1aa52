"""One turn of the loop: a batch of samples, one UNet call, one step for each.

Theory of operation. Samples may share a UNet call when it is the same model, latent size and
token length; their step, step count, sampler, guidance, seed and owner do not matter, since
everything but the network itself is done per sample: each has its own scheduler, generator
and mask. A turn serves the group that has waited longest, and in it the samples that have,
up to the batch limit, so that nobody is starved whatever the mix.

A sample without guidance takes one row of the call, one with guidance two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from runai.engine.model import LoadedModel
from runai.engine.starts import Sample

Key = tuple[int, tuple[int, ...], int]
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


def choose(
    samples: Iterable[Sample],
    max_batch: int | None = None,
    ceilings: Mapping[Key, int] = MappingProxyType({}),
) -> list[Sample]:
    """The batch of the next turn: the group with the longest wait, its longest waiting first.

    `ceilings`: how many samples of a group may share a call, where memory asks for fewer.
    """
    groups: dict[Key, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(key_of(sample), []).append(sample)
    if not groups:
        return []
    group = min(groups.values(), key=lambda g: min(s.last_turn for s in g))
    group.sort(key=lambda s: s.last_turn)
    limit = batch_limit(group[0].model, max_batch)
    return group[: min(limit, ceilings.get(key_of(group[0]), limit))]


def key_of(sample: Sample) -> Key:
    """What samples must have in common to share a call."""
    return id(sample.model.unet), tuple(sample.latents.shape), sample.conditioning.tokens


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
    guided = [i for i, s in enumerate(batch) if s.conditioning.guided]
    order = [*guided, *range(len(batch))]  # the negative halves first, then all positive ones
    model = batch[0].model
    rows = torch.cat([_with_beside(batch[i], inputs[i]) for i in order])
    said_texts = [s.conditioning.at(s.step) for s in batch]
    texts = [said_texts[i][0] for i in guided] + [positive for _, positive in said_texts]
    said = model.unet(
        rows.to(model.dtype),
        torch.stack([batch[i].timestep.float() for i in order]).to(model.device),
        encoder_hidden_states=torch.cat([text.embedding for text in texts if text]),
        return_dict=False,
    )[0].float()
    halves = [said[row : row + 1] for row in range(len(order))]
    negative = dict(zip(guided, halves, strict=False))
    positive = halves[len(guided) :]
    return [_guide(s, negative.get(i), positive[i]) for i, s in enumerate(batch)]


def _with_beside(sample: Sample, latents: torch.Tensor) -> torch.Tensor:
    return latents if sample.beside is None else torch.cat([latents, sample.beside], dim=1)


def _guide(sample: Sample, negative: torch.Tensor | None, positive: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance (Ho & Salimans 2022)."""
    if negative is None:
        return positive
    return negative + sample.guidance_scale * (positive - negative)


def _estimate(sample: Sample, given: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """The finished latents as the network sees them at this step (Ho et al. 2020, eq. 15).

    `given` is what the UNet was given, which every scheduler scales to the same form:
    √ᾱ · picture + √(1-ᾱ) · noise.
    """
    alphas = sample.scheduler.alphas_cumprod
    index = int(sample.timestep.round().clamp(0, len(alphas) - 1))
    signal, noise = float(alphas[index]) ** 0.5, float(1 - alphas[index]) ** 0.5
    if sample.scheduler.config.prediction_type == "v_prediction":
        return signal * given - noise * said
    return (given - noise * said) / signal


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
