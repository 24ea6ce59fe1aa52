"""A request while it is being drawn: its samples, its finished pictures, its events."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from runai.engine import images
from runai.engine.archs import Defaults
from runai.engine.canvas import Canvas
from runai.engine.catalogue import Entry
from runai.engine.model import LoadedModel
from runai.engine.plan import Plan
from runai.engine.prompting import Reading
from runai.engine.starts import Sample
from runai.schema.events import Completed, Parameters, Picture, Progress
from runai.schema.late import Late
from runai.schema.requests import SHORTCUTS, GenerationRequest

PREVIEW_EVERY = 4  # steps


@dataclass(frozen=True)
class Drawn:
    """A finished picture, checked and marked."""

    pixels: images.Picture
    nsfw: bool = False

    def written(self, seed: int, parameters: dict[str, Any]) -> Picture:
        """As a PNG that carries its parameters."""
        said = {**parameters, "seed": seed, "num_images": 1}
        return Picture(png=images.write_png(self.pixels, said), seed=seed, nsfw=self.nsfw)


@dataclass(eq=False)
class Drawing:
    """`samples[i]` becomes picture i, drawn from `seed + i`.

    `previewed_by`: the model with the tiny autoencoder `preview_vae`, which its previews are
    decoded by, where there is one; `fine`: how many each picture had; `fine_s`: the seconds that
    these have taken.
    """

    key: str
    request: GenerationRequest
    model: LoadedModel
    choices: Defaults
    canvas: Canvas
    reading: Reading
    seed: int
    samples: list[Sample]
    plan: Plan
    model_hash: str | None = None
    vae: Entry | None = None  # the one that is used instead of the model's own
    preview_vae: Entry | None = None
    previewed_by: LoadedModel | None = None
    fine: Counter[int] = field(default_factory=Counter)
    fine_s: float = 0.0
    notes: tuple[str, ...] = ()
    pictures: dict[int, Drawn] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    stepped_down: bool = False  # after memory ran out; that is done once

    @property
    def unfinished(self) -> list[Sample]:
        return [s for i, s in enumerate(self.samples) if i not in self.pictures]

    @property
    def finished(self) -> bool:
        return len(self.pictures) == len(self.samples)

    def progress(self) -> Progress:
        """Steps done of all samples' steps, and the seconds left at the speed so far."""
        step = sum(s.position for s in self.samples)
        total = sum(len(s.timesteps) for s in self.samples)
        elapsed = time.monotonic() - self.started
        left = elapsed / step * (total - step) if step else None
        return Progress(
            id=self.request.id,
            step=step,
            total=total,
            seconds_left=None if left is None else round(left, 2),
        )

    def completed(self) -> Late:
        """The last event; its pictures are written when it is made. Holds nothing of the model."""
        seeds = range(self.seed, self.seed + len(self.samples))
        drawn = [self.pictures[i] for i in range(len(self.samples))]
        said = Completed(
            id=self.request.id,
            images=[],
            parameters=self.parameters(),
            memory=self.plan.as_event(),
            notes=list(self.notes),
        )
        return Late(partial(_with_pictures, said, drawn, seeds))

    def parameters(self) -> Parameters:
        request = self.request
        edits = self.model.arch.beside == "picture"
        return Parameters(
            task=request.task,
            model=self.model.name,
            model_hash=self.model_hash,
            prompt=self.reading.prompt,
            negative_prompt=self.reading.negative,
            prompt_dialect=self.reading.dialect,
            num_inference_steps=self.choices.num_inference_steps,
            guidance_scale=self.choices.guidance_scale,
            image_guidance_scale=request.image_guidance_scale if edits else None,
            **_shortcuts(request),
            sampler=self.choices.sampler,
            eta=request.eta,
            clip_skip=request.clip_skip,
            loras=list(self.reading.loras),
            vae="" if self.vae is None else self.vae.name,
            seed=self.seed,
            num_images=request.num_images,
            width=self.canvas.extent.width,
            height=self.canvas.extent.height,
            strength=None if edits else getattr(request, "strength", None),
            noise_level=getattr(request, "noise_level", None),
            nsfw_filter=request.nsfw_filter,
            watermark=request.watermark,
        )


def _with_pictures(said: Completed, drawn: Sequence[Drawn], seeds: Sequence[int]) -> Completed:
    parameters = said.parameters.model_dump(exclude_none=True)
    written = [one.written(seed, parameters) for one, seed in zip(drawn, seeds, strict=True)]
    return said.model_copy(update={"images": written})


def _shortcuts(request: GenerationRequest) -> dict[str, Any]:
    """What is not computed as exactly as it could be; nothing, as a rule."""
    asked = {name: getattr(request, name) for name in SHORTCUTS}
    return {n: value for n, value in asked.items() if value != SHORTCUTS[n]}
