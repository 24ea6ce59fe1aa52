"""From a request to its drawing: which model, whether it can, and the samples at their first step.

Rules: everything that can be refused without loading anything is refused first (`check`), and
pictures that were read to find out are handed on, not read twice. A default is not a request:
where the model's default number of steps is more than the server allows, it is lowered, not
refused. What is done otherwise than asked is told in a note.

Does not load models and knows no memory plan; `engine` gives it the model to draw with.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from runai.engine import canvas, finish, loras, prompting, reuse, samplers, starts, vaes
from runai.engine.archs import ARCHS, Arch, Defaults
from runai.engine.canvas import Given
from runai.engine.catalogue import Catalogue, Entry
from runai.engine.distillations import DISTILLATIONS
from runai.engine.drawing import Drawing
from runai.engine.embeddings import Embeddings
from runai.engine.hashes import short_hash
from runai.engine.loras import LoraShelf
from runai.engine.loras_few_steps import FewSteps, brought_by
from runai.engine.model import LoadedModel
from runai.engine.plan import Plan
from runai.engine.prompting import Reading
from runai.engine.prompts import Prompts
from runai.engine.safety import SafetyFilter
from runai.engine.watermark import Watermark
from runai.errors import ModelNotFound, ModelUnsupported
from runai.schema.limits import Limits
from runai.schema.requests import GenerationRequest

PROMPT_CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Checked:
    """What was read of a request before there was a model: its prompts, its pictures.

    `few_steps`: what its LoRAs make of the model.
    """

    reading: Reading
    few_steps: FewSteps | None
    given: Given
    notes: tuple[str, ...]


class Admission:
    """Takes requests up. `shelf` is the engine's too: it activates LoRAs for the UNet."""

    def __init__(
        self,
        catalogue: Catalogue,
        shelf: LoraShelf,
        safety: SafetyFilter,
        watermark: Watermark,
        limits: Limits,
    ) -> None:
        self._catalogue = catalogue
        self._shelf = shelf
        self._safety = safety
        self._watermark = watermark
        self._limits = limits
        self._embeddings = Embeddings(catalogue)
        self._prompts = Prompts(PROMPT_CACHE_BYTES)
        self.prompt_cache_bytes = 0

    def resolve(self, request: GenerationRequest) -> tuple[Entry, list[str]]:
        """The model a request means, and notes on it. Raises ModelNotFound."""
        if not request.model:
            return self._catalogue.default(request.model_version, request.task), []
        try:
            return self._catalogue.find(request.model, request.model_version), []
        except ModelNotFound:
            if not request.model_fallback:
                raise
        entry = self._catalogue.default(request.model_version, request.task)
        return entry, [f"There is no model {request.model!r}; {entry.name} was used instead."]

    def vae_of(self, request: GenerationRequest, entry: Entry) -> Entry | None:
        """The VAE to draw with instead of the model's own, if one is asked for."""
        if not request.vae:
            return None
        vae = self._catalogue.find(request.vae, entry.version, kind="vae")
        vaes.require(vae, entry)
        return vae

    def check(self, request: GenerationRequest, entry: Entry) -> Checked:
        """Refuse what can be refused before anything is loaded."""
        arch = ARCHS[entry.arch]
        _check_task(request, entry, arch)
        reading = prompting.read(request)
        few_steps = brought_by(entry, self._shelf.check(entry, reading.loras))
        expected = few_steps.defaults if few_steps else _expected_defaults(entry, arch)
        choices = self._choices(request, expected, arch)
        samplers.require(choices.sampler)
        steps = samplers.steps_drawn(request, arch, choices)
        prompting.parse(reading.prompt, reading.dialect, steps)
        if choices.guidance_scale > 1:
            prompting.parse(reading.negative, reading.dialect, steps, "negative_prompt")
        given = canvas.read(request, arch, self._limits)
        self._watermark.require(request, given.extent)
        unchecked = self._safety.require(request, entry)
        return Checked(reading, few_steps, given, tuple(unchecked))

    @torch.inference_mode()
    def begin(
        self,
        key: str,
        request: GenerationRequest,
        checked: Checked,
        model: LoadedModel,
        plan: Plan,
    ) -> Drawing:
        """The drawing of a request with a loaded model, all its samples at their first step."""
        _check_task(request, model.entry, model.arch)
        few_steps = checked.few_steps
        choices = self._choices(
            request, few_steps.defaults if few_steps else model.defaults, model.arch
        )
        adapters = self._shelf.prepare(model, checked.reading.loras)
        self._shelf.activate(model, adapters)
        conditioning = self._prompts.encode(
            model, request, choices, loras=loras.text_key(adapters), embeddings=self._embeddings
        )
        self.prompt_cache_bytes = self._prompts.cache.bytes
        with finish.vae_ready(model, model.vae, tiled=plan.tiled):
            prepared = canvas.prepare(model, request, checked.given, self._limits)
        unmarked = self._watermark.require(request, prepared.extent)
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        samples = [
            starts.start(model, request, choices, prepared, conditioning, seed + i, adapters)
            for i in range(request.num_images)
        ]
        return Drawing(
            key=key,
            request=request,
            model=model,
            choices=choices,
            canvas=prepared,
            reading=checked.reading,
            model_hash=self._hash_of(model.entry),
            seed=seed,
            samples=samples,
            plan=plan,
            notes=(
                *_notes(request, model, choices),
                *(few_steps.surprises(choices) if few_steps else ()),
                *loras.notes(adapters),
                *conditioning.notes,
                *checked.notes,
                *unmarked,
            ),
        )

    def _choices(self, request: GenerationRequest, defaults: Defaults, arch: Arch) -> Defaults:
        choices, most = defaults.overridden_by(request), self._limits.max_steps
        strength = 0.0 if arch.beside == "picture" else getattr(request, "strength", 0.0)
        if request.num_inference_steps is None and strength:
            # or a few-step model would have none to do; of the smallest numbers 1 / x is infinite
            least = math.ceil(min(1 / strength, most))
            steps = max(choices.num_inference_steps, least)
            choices = replace(choices, num_inference_steps=steps)
        if request.num_inference_steps is None and choices.num_inference_steps > most:
            return replace(choices, num_inference_steps=most)
        return choices

    def _hash_of(self, entry: Entry) -> str | None:
        """The web UI's short hash, if it is known by now."""
        sha256 = self._catalogue.sha256(entry)
        return None if sha256 is None else short_hash(sha256)


def _check_task(request: GenerationRequest, entry: Entry, arch: Arch) -> None:
    if request.task in arch.tasks:
        return
    offered = ", ".join(arch.tasks)
    raise ModelUnsupported(
        f"{entry.name} is a model of the kind {arch.name}, which cannot do {request.task}.",
        hint=f"It can do {offered}; `runai models` shows what other models can do.",
        field="task",
    )


def _expected_defaults(entry: Entry, arch: Arch) -> Defaults:
    """A model's, as far as its file tells: whether its UNet is told the guidance shows later."""
    distillation = DISTILLATIONS.get(entry.distillation or "")
    return distillation.defaults_for(told=False) if distillation else arch.defaults


def _notes(request: GenerationRequest, model: LoadedModel, choices: Defaults) -> Iterator[str]:
    """On what was asked for and this kind of model has no use for."""
    told = model.guidance_width is not None
    unguided = told or choices.guidance_scale <= 1
    if unguided and {"guidance_start", "guidance_end"} & request.model_fields_set:
        yield "Where guidance begins and ends was not used: there is none."
    if request.reuse > 1 and not reuse.is_possible(model.unet):
        yield "Nothing was reused: this model's UNet has no deep part."
    if distillation := DISTILLATIONS.get(model.entry.distillation or ""):
        yield from distillation.surprises(choices, told=told)
    if model.arch.beside == "picture" and "strength" in request.model_fields_set:
        yield "The strength was not used: this model draws the whole picture anew, by words."
    if told and request.negative_prompt:
        yield "The negative prompt was not used: this model is guided without one."
    elif request.negative_prompt and choices.guidance_scale <= 1:
        yield "The negative prompt was not used: there is none with a guidance of 1 or less."
