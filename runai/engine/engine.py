"""The engine's facade: requests in, events out, one denoising step at a time.

Rules: everything under "what there is" may be called from any thread, the rest from one. A
request is either not in the engine or a `Drawing` with at least one unfinished sample. What
fails for one request is that request's failure: only the batch it shares a UNet call with can
fail with it, and then each of them is told. A batch that is too large for memory is tried again
in halves, a single picture once more by a plan that needs less.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from runai.engine import canvas, finish, loading, prompts, starts, step_loop
from runai.engine import plan as plans
from runai.engine.cache import ModelCache
from runai.engine.catalogue import Catalogue, Entry
from runai.engine.devices import choose, is_out_of_memory
from runai.engine.drawing import PREVIEW_EVERY, Drawing
from runai.engine.model import LoadedModel
from runai.engine.plan import Plan
from runai.engine.safety import SafetyFilter
from runai.engine.starts import Sample
from runai.errors import EngineError, ModelNotFound, OutOfMemory, RunAIError
from runai.schema.events import (
    ErrorBody,
    Failed,
    Holdings,
    JobEvent,
    Memory,
    ModelInfo,
    Preview,
)
from runai.schema.limits import Limits
from runai.schema.requests import GenerationRequest, MemoryPlan

MAX_ACTIVE_SAMPLES = 8
COUNTED_SAMPLES = 2  # of one request: one for many pictures must not keep all others out
# what torch and diffusers raise while drawing; anything else is a fault of ours
DEVICE_FAULTS = (RuntimeError, ValueError, TypeError, LookupError, MemoryError)
Outcome = tuple[str, JobEvent]


class TorchEngine:
    """Draws with diffusers' networks. See `runai.jobs.engine.Engine` for the contract.

    `max_batch`: samples per UNet call, None to choose by device and model size. `max_memory`,
    `idle_unload_s`: see the settings.
    """

    def __init__(
        self,
        model_base_path: Path | Sequence[Path],
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_batch: int | None = None,
        limits: Limits | None = None,
        example_path: Path | None = None,
        max_memory: int = 0,
        idle_unload_s: float = 0.0,
    ) -> None:
        bases = [model_base_path] if isinstance(model_base_path, Path) else list(model_base_path)
        self._place = choose(device, dtype)
        self._limits = limits or Limits()
        self._max_batch = max_batch
        self._catalogue = Catalogue(bases, example_path)
        paths = self._catalogue.base_paths
        self._cache = ModelCache(
            lambda entry, place: loading.load(entry, place, paths),
            loading.load_vae,
            self._place,
            max_bytes=max_memory,
        )
        self._idle_unload_s = idle_unload_s
        self._newest_plan: Plan | None = None
        self._filter = SafetyFilter(paths, self._place)
        self._previewer = finish.Previewer()
        self._drawings: dict[str, Drawing] = {}
        self._turn = 0
        # samples a call may hold, of groups for which a larger call ran out of memory
        self._ceilings: dict[step_loop.Key, int] = {}

    # --- what there is ---------------------------------------------------------------

    def models(self) -> list[ModelInfo]:
        """The catalogue, the default model marked. Any thread."""
        return self._catalogue.infos(self._cache.names())

    def loaded_models(self) -> list[str]:
        """The names of the models in memory. Any thread."""
        return self._cache.names()

    def holdings(self) -> Holdings:
        """What is in memory, and how much more could be. Any thread."""
        return self._cache.holdings(self._in_use())

    def newest_memory(self) -> Memory | None:
        """How the newest request was fitted into memory. Any thread."""
        plan = self._newest_plan
        return None if plan is None else plan.as_event()

    def model_of(self, request: GenerationRequest) -> str:
        return self._resolve(request)[0].name

    def is_warm(self, request: GenerationRequest) -> bool:
        try:
            return self.model_of(request) in self._cache
        except ModelNotFound:
            return True  # nothing will be loaded: the request fails at once

    def has_room(self) -> bool:
        active = sum(min(len(d.unfinished), COUNTED_SAMPLES) for d in self._drawings.values())
        return active < max(MAX_ACTIVE_SAMPLES, self._max_batch or 0)

    def is_busy(self) -> bool:
        return bool(self._drawings)

    # --- a request's life ------------------------------------------------------------

    def admit(self, key: str, request: GenerationRequest) -> None:
        """Start the samples of a request; see Engine.admit."""
        entry, note = self._resolve(request)
        if request.nsfw_filter and not entry.example:
            self._filter.require()
        drawing = self._fit(key, request, entry)
        drawing.notes = (*note, *drawing.notes)
        self._drawings[key] = drawing

    def _fit(self, key: str, request: GenerationRequest, entry: Entry) -> Drawing:
        """Begin by the plan that fits; if memory runs out all the same, once more by the next."""
        plan = self._newest_plan = self._cache.plan(entry, request, self._in_use())
        try:
            with _device_errors():
                return self._begin(key, request, entry, plan)
        except OutOfMemory as error:
            reason = error
        self._cache.free(self._in_use())
        later = self._newest_plan = plans.lower(plan)
        try:
            with _device_errors():
                drawing = self._begin(key, request, entry, later)
        except OutOfMemory:
            raise plans.failed(later) from reason
        drawing.stepped_down = True
        return drawing

    def _begin(self, key: str, request: GenerationRequest, entry: Entry, plan: Plan) -> Drawing:
        model = self._cache.get(entry, self._in_use(), plan)
        self._cache.arrange(model, self._arrangement_of(model, plan))
        return self._started(key, request, model, plan)

    @torch.inference_mode()
    def _started(
        self, key: str, request: GenerationRequest, model: LoadedModel, plan: Plan
    ) -> Drawing:
        with finish.vae_ready(model, tiled=plan.tiled):
            prepared = canvas.prepare(model, request, self._limits)
        choices = model.defaults.overridden_by(request)
        conditioning = prompts.encode(
            model, request.prompt, request.negative_prompt, choices.guidance_scale
        )
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        samples = [
            starts.start(model, request, choices, prepared, conditioning, seed + i)
            for i in range(request.num_images)
        ]
        for sample in samples:
            sample.last_turn = self._turn
        return Drawing(
            key, request, model, choices, prepared, seed, samples, plan, conditioning.notes
        )

    def step(self) -> list[Outcome]:
        """One turn of the loop; see Engine.step."""
        active = {s: d for d in self._drawings.values() for s in d.unfinished}
        batch = step_loop.choose(active, self._max_batch, self._ceilings)
        if not batch:
            return []
        self._turn += 1
        try:
            with _device_errors():
                self._cache.arrange(batch[0].model, self._arrangement_of(batch[0].model))
                step_loop.advance(batch, self._turn)
        except OutOfMemory as error:
            return self._shrink(batch, active[batch[0]], error)
        except RunAIError as error:
            return self._fail({active[s].key for s in batch}, error)
        moved = {active[s].key: active[s] for s in batch}
        return [outcome for drawing in moved.values() for outcome in self._outcomes(drawing, batch)]

    def drop(self, key: str) -> None:
        self._drawings.pop(key, None)

    def rest(self) -> float | None:
        """Let go of what was idle for too long; see Engine.rest."""
        if not self._idle_unload_s:
            return None
        return self._cache.rest(self._idle_unload_s, self._in_use())

    def close(self) -> None:
        self._drawings.clear()
        self._cache.clear()

    # --- within ----------------------------------------------------------------------

    def _resolve(self, request: GenerationRequest) -> tuple[Entry, list[str]]:
        if not request.model:
            return self._catalogue.default(request.model_version, request.task), []
        try:
            return self._catalogue.find(request.model, request.model_version), []
        except ModelNotFound:
            if not request.model_fallback:
                raise
        entry = self._catalogue.default(request.model_version, request.task)
        return entry, [f"There is no model {request.model!r}; {entry.name} was used instead."]

    def _in_use(self) -> set[str]:
        return {drawing.model.name for drawing in list(self._drawings.values())}

    def _arrangement_of(self, model: LoadedModel, *more: Plan) -> MemoryPlan:
        """What serves all who draw with a model, so that its parts do not move to and fro."""
        drawing = [d.plan for d in self._drawings.values() if d.model.name == model.name]
        return plans.strictest(plan.name for plan in (*drawing, *more))

    def _shrink(self, batch: Sequence[Sample], first: Drawing, error: OutOfMemory) -> list[Outcome]:
        """After a call that was too large for memory: the same samples again, with less."""
        if len(batch) > 1:  # none of them may be at fault
            self._ceilings[step_loop.key_of(batch[0])] = len(batch) // 2
            return []
        try:
            self._step_down(first, error)
        except OutOfMemory as final:
            return self._fail({first.key}, final)
        return []

    def _step_down(self, drawing: Drawing, error: OutOfMemory) -> None:
        """Free what can be, and go on by the next plan; the second time OutOfMemory."""
        if drawing.stepped_down:
            raise plans.failed(drawing.plan) from error
        self._cache.free(self._in_use())
        drawing.plan = self._newest_plan = plans.lower(drawing.plan)
        drawing.stepped_down = True

    def _outcomes(self, drawing: Drawing, batch: Sequence[Sample]) -> Iterator[Outcome]:
        yield drawing.key, drawing.progress()
        for index, sample in enumerate(drawing.samples):
            if sample not in batch:
                continue
            if not sample.done:
                yield from self._previews(drawing, index, sample)
                continue
            try:
                self._complete(drawing, index)
            except RunAIError as error:
                yield from self._fail({drawing.key}, error)
                return
        if drawing.finished:
            del self._drawings[drawing.key]
            yield drawing.key, drawing.completed()

    def _complete(self, drawing: Drawing, index: int) -> None:
        while index not in drawing.pictures:
            try:
                with _device_errors():
                    self._decode(drawing, index)
            except OutOfMemory as error:
                self._step_down(drawing, error)

    def _decode(self, drawing: Drawing, index: int) -> None:
        model, plan = drawing.model, drawing.plan
        self._cache.arrange(model, self._arrangement_of(model))
        picture = finish.decode(model, drawing.samples[index].latents, tiled=plan.tiled)
        nsfw = False
        if drawing.request.nsfw_filter and not drawing.model.entry.example:
            picture, nsfw = self._filter.check(picture)
        drawing.add(index, picture, nsfw=nsfw)

    def _previews(self, drawing: Drawing, index: int, sample: Sample) -> Iterator[Outcome]:
        if sample.estimate is None or sample.position % PREVIEW_EVERY:
            return
        try:
            with _device_errors():
                png = self._previewer.draw(drawing.model, sample.estimate)
        except RunAIError:  # a picture without previews is better than none
            sample.wants_estimate, sample.estimate = False, None
            return
        preview = Preview(id=drawing.request.id, index=index, step=sample.position, png=png)
        yield drawing.key, preview

    def _fail(self, keys: set[str], error: RunAIError) -> list[Outcome]:
        body = ErrorBody.of(error)
        failed = [(key, self._drawings.pop(key)) for key in keys if key in self._drawings]
        return [(key, Failed(id=drawing.request.id, error=body)) for key, drawing in failed]


class _device_errors:  # noqa: N801 - used as a statement: `with _device_errors():`
    """Turns what torch raises into errors that say what to do."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if is_out_of_memory(error):
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise OutOfMemory("There is not enough memory on the device for this.") from error
        if isinstance(error, DEVICE_FAULTS):
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise EngineError(f"Drawing failed: {reason}") from error
