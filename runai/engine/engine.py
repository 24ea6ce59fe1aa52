"""The engine's facade: requests in, events out, one denoising step at a time.

Rules: everything but `models` and `loaded_models` is called from one thread. A request is
either not in the engine or a `Drawing` with at least one unfinished sample. What fails for one
request is that request's failure: only the batch it shares a UNet call with can fail with it,
and then each of them is told. A batch that is too large for memory is tried again in halves.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from runai.engine import canvas, finish, loading, prompts, starts, step_loop
from runai.engine.cache import ModelCache
from runai.engine.catalogue import Catalogue, Entry
from runai.engine.devices import choose, is_out_of_memory
from runai.engine.drawing import PREVIEW_EVERY, Drawing
from runai.engine.model import LoadedModel
from runai.engine.safety import SafetyFilter
from runai.engine.starts import Sample
from runai.errors import EngineError, ModelNotFound, OutOfMemory, RunAIError
from runai.schema.events import ErrorBody, Failed, JobEvent, ModelInfo, Preview
from runai.schema.limits import Limits
from runai.schema.requests import GenerationRequest

MAX_ACTIVE_SAMPLES = 8
COUNTED_SAMPLES = 2  # of one request: one for many pictures must not keep all others out
# what torch and diffusers raise while drawing; anything else is a fault of ours
DEVICE_FAULTS = (RuntimeError, ValueError, TypeError, LookupError, MemoryError)
Outcome = tuple[str, JobEvent]


class TorchEngine:
    """Draws with diffusers' networks. See `runai.jobs.engine.Engine` for the contract.

    `max_batch`: samples per UNet call, None to choose by device and model size.
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
    ) -> None:
        bases = [model_base_path] if isinstance(model_base_path, Path) else list(model_base_path)
        self._place = choose(device, dtype)
        self._limits = limits or Limits()
        self._max_batch = max_batch
        self._catalogue = Catalogue(bases, example_path)
        paths = self._catalogue.base_paths
        self._cache = ModelCache(lambda entry: loading.load(entry, self._place, paths), self._place)
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
        with _device_errors():
            model = self._cache.get(entry, {d.model.name for d in self._drawings.values()})
            drawing = self._begin(key, request, model)
        drawing.notes = (*note, *drawing.notes)
        self._drawings[key] = drawing

    @torch.inference_mode()
    def _begin(self, key: str, request: GenerationRequest, model: LoadedModel) -> Drawing:
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
        return Drawing(key, request, model, choices, prepared, seed, samples, conditioning.notes)

    def step(self) -> list[Outcome]:
        """One turn of the loop; see Engine.step."""
        active = {s: d for d in self._drawings.values() for s in d.unfinished}
        batch = step_loop.choose(active, self._max_batch, self._ceilings)
        if not batch:
            return []
        self._turn += 1
        try:
            with _device_errors():
                step_loop.advance(batch, self._turn)
        except OutOfMemory as error:
            if len(batch) == 1:
                return self._fail({active[batch[0]].key}, error)
            # none of them may be at fault: the same samples again, fewer at a time
            self._ceilings[step_loop.key_of(batch[0])] = len(batch) // 2
            return []
        except RunAIError as error:
            return self._fail({active[s].key for s in batch}, error)
        moved = {active[s].key: active[s] for s in batch}
        return [outcome for drawing in moved.values() for outcome in self._outcomes(drawing, batch)]

    def drop(self, key: str) -> None:
        self._drawings.pop(key, None)

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

    def _outcomes(self, drawing: Drawing, batch: Sequence[Sample]) -> Iterator[Outcome]:
        yield drawing.key, drawing.progress()
        for index, sample in enumerate(drawing.samples):
            if sample not in batch:
                continue
            if not sample.done:
                yield from self._previews(drawing, index, sample)
                continue
            try:
                with _device_errors():
                    self._complete(drawing, index)
            except RunAIError as error:
                yield from self._fail({drawing.key}, error)
                return
        if drawing.finished:
            del self._drawings[drawing.key]
            yield drawing.key, drawing.completed()

    def _complete(self, drawing: Drawing, index: int) -> None:
        picture = finish.decode(drawing.model, drawing.samples[index].latents)
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
