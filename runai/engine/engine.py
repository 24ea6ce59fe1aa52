"""The engine's facade: requests in, events out, one turn (`turns`) at a time.

Rules: everything under "what there is" may be called from any thread, the rest from one. A
request is either not in the engine or a `Drawing` with at least one unfinished sample. What
fails for one request is that request's failure: only the batch it shares a UNet call with can
fail with it, and then each of them is told. A batch that is too large for memory is tried again
in halves, a single picture once more by a plan that needs less. A device that is lost is no
request's failure: whatever was asked raises DeviceLost then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runai.engine import loading, step_loop, turns
from runai.engine.admission import Admission
from runai.engine.backends.choice import Backends, Wanted
from runai.engine.batches import Batches
from runai.engine.cache import ModelCache
from runai.engine.catalogue import Catalogue, Entry
from runai.engine.devices import choose
from runai.engine.drawing import Drawing
from runai.engine.faults import device_errors, device_may_be_lost
from runai.engine.fitting import Fitting, Start
from runai.engine.loras import LoraShelf
from runai.engine.pace import Prefer
from runai.engine.pictures import Pictures
from runai.engine.safety import Missing, SafetyFilter
from runai.engine.starts import Sample
from runai.engine.stopwatch import Stopwatch
from runai.engine.watermark import Watermark
from runai.errors import DeviceLost, ModelError, OutOfMemory, RunAIError
from runai.schema.events import (
    CallTime,
    ErrorBody,
    Failed,
    Holdings,
    JobEvent,
    Memory,
    ModelInfo,
    Unusable,
)
from runai.schema.late import Late
from runai.schema.limits import Limits
from runai.schema.requests import GenerationRequest, TextToImage
from runai.schema.stages import Spent

COUNTED_SAMPLES = 2  # of one request: one for many pictures must not keep all others out
Outcome = tuple[str, JobEvent | Late]


class TorchEngine:
    """Draws with diffusers' networks. See `runai.jobs.engine.Engine` for the contract.

    `max_batch`: samples per UNet call, None to choose by measuring what `prefer` means.
    `max_memory`, `idle_unload_s`, `backend`: see the settings.
    """

    def __init__(
        self,
        model_base_path: Path | Sequence[Path],
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_batch: int | None = None,
        prefer: Prefer = "balanced",
        limits: Limits | None = None,
        example_path: Path | None = None,
        max_memory: int = 0,
        idle_unload_s: float = 0.0,
        nsfw_filter_missing: Missing = "error",
        watermark_missing: Missing = "error",
        backend: Wanted = "auto",
    ) -> None:
        bases = [model_base_path] if isinstance(model_base_path, Path) else list(model_base_path)
        place = choose(device, dtype)
        self._batches = Batches(max_batch, prefer)
        self._stopwatch = Stopwatch()
        self._catalogue = Catalogue(bases, example_path)
        paths = self._catalogue.base_paths
        timed = self._stopwatch.time
        self._cache = ModelCache(
            timed("load")(lambda entry, place: loading.load(entry, place, paths)),
            timed("load")(loading.load_vae),
            place,
            max_bytes=max_memory,
            beside=lambda: sum(self._held_beside().values()),
            free_bytes=lambda: place.free_bytes() - self._backends.recorded_bytes,
            spare=lambda: self._backends.recorded_bytes,
            let_go_of_spare=lambda: self._backends.forget_recordings(),
        )
        self._backends = Backends(backend, place, self._cache.spare_bytes)
        self._idle_unload_s = idle_unload_s
        self._drawings: dict[str, Drawing] = {}
        self._beside: dict[str, int] = {}  # as last counted
        self._fitting = Fitting(self._cache, self._drawings)
        self._filter = SafetyFilter(paths, place, self._folders, nsfw_filter_missing)
        watermark = Watermark(watermark_missing)
        self._shelf = LoraShelf(self._catalogue, self._fitting.make_room)
        self._admission = Admission(
            self._catalogue, self._shelf, self._filter, watermark, limits or Limits()
        )
        self._pictures = Pictures(
            self._catalogue, self._fitting, self._filter, watermark, self._stopwatch
        )
        self._turn = 0
        self._called = False  # the UNet, in the newest turn

    # --- what there is ---------------------------------------------------------------

    def models(self) -> list[ModelInfo]:
        """The catalogue, the default model marked. Any thread."""
        return self._catalogue.infos(self._cache.names())

    def unusable(self) -> list[Unusable]:
        """What lies in the model folders and cannot be used. Any thread."""
        return self._catalogue.unusable()

    def loaded_models(self) -> list[str]:
        """The names of the models in memory. Any thread."""
        return self._cache.names()

    @device_may_be_lost()
    def holdings(self) -> Holdings:
        """What is in memory, and how much more could be. Any thread."""
        held = self._cache.holdings(self._fitting.in_use())
        backends = self._backends.by_name
        loaded = [
            one.model_copy(update={"backend": backends.get(one.name, one.backend)})
            for one in held.loaded
        ]
        return held.model_copy(update={**self._beside, "loaded": loaded})

    def newest_memory(self) -> Memory | None:
        """How the newest request was fitted into memory. Any thread."""
        plan = self._fitting.newest
        return None if plan is None else plan.as_event()

    def call_times(self) -> Sequence[CallTime]:
        """See Engine.call_times. Any thread."""
        return self._batches.newest

    def model_of(self, request: GenerationRequest) -> str:
        return self._admission.resolve(request)[0].name

    def is_warm(self, request: GenerationRequest) -> bool:
        try:
            return self._admission.resolve(request)[0] in self._cache
        except ModelError:
            return True  # nothing will be loaded: the request fails at once

    def has_room(self) -> bool:
        counted = (d.unfinished[:COUNTED_SAMPLES] for d in self._drawings.values())
        return self._batches.has_room([sample for samples in counted for sample in samples])

    def is_busy(self) -> bool:
        return bool(self._drawings)

    # --- a request's life ------------------------------------------------------------

    @device_may_be_lost()
    def preload(self, model: str) -> None:
        """See Engine.preload. With room for one picture of the model's own size."""
        request = TextToImage(id="preload", model=model)
        entry, _ = self._admission.resolve(request)
        with device_errors():
            self._fitting.load(request, entry)

    @device_may_be_lost()
    def admit(self, key: str, request: GenerationRequest, owner: int = 0) -> None:
        """Start the samples of a request; see Engine.admit."""
        entry, notes = self._admission.resolve(request)
        checked = self._admission.check(request, entry)
        self._stopwatch.keys, timed = (key,), self._stopwatch.time("encode")
        drawing = self._begin(
            request,
            entry,
            timed(lambda model, plan: self._admission.begin(key, request, checked, model, plan)),
        )
        drawing.notes = (*notes, *drawing.notes)
        self._pictures.prepare(drawing)
        first = drawing.samples[0]
        networks = first.networks
        if not first.token_merging:  # or it is torch's: nobody else can merge
            networks = self._backends.networks(
                drawing.model, drawing.plan, first.loras, first.reuse
            )
        turn = self._newest_turn(owner)
        for sample in drawing.samples:
            sample.owner, sample.last_turn, sample.networks = owner, turn, networks
        self._drawings[key] = drawing
        self._beside = self._held_beside()

    @device_may_be_lost()
    def step(self) -> list[Outcome]:
        """One turn of the loop; see Engine.step. What idles meanwhile is let go of, too."""
        self.rest()
        active = {s: d for d in self._drawings.values() for s in d.unfinished}
        models = {d.model.entry for d in active.values() if not d.plan.keeps_on_device}
        moved = {s for s, d in active.items() if d.model.entry in models}
        ripe = turns.to_finish(active, called=self._called, moved=moved)
        self._called = not ripe
        if ripe:
            return [outcome for s in ripe for outcome in self._finish(active[s], s)]
        return self._advance(active) if active else []

    def _advance(self, active: Mapping[Sample, Drawing]) -> list[Outcome]:
        """A UNet call for some of those that are not done."""
        ready = step_loop.choose(s for s in active if not s.done)
        shared = self._batches.cut(
            ready,
            alone=len({active[s] for s in ready}) == 1,
            longest=turns.longest_call(ready, active),
        )
        batch = self._fitting.within(shared, active[ready[0]].plan)
        self._turn += 1
        self._stopwatch.keys = tuple({active[s].key for s in batch})
        try:
            with self._stopwatch.time("step"), device_errors():
                self._fitting.arrange(batch[0].model)
                self._shelf.activate(batch[0].model, batch[0].loras)
                with self._batches.timed(batch):
                    step_loop.advance(batch, self._turn)
        except OutOfMemory as error:
            return self._shrink(batch, active[batch[0]], error)
        except DeviceLost:
            raise
        except RunAIError as error:
            return self._fail({active[s].key for s in batch}, error)
        advanced = {active[s].key: active[s] for s in batch}
        return [
            outcome for drawing in advanced.values() for outcome in self._advanced(drawing, batch)
        ]

    def take_timings(self) -> list[Spent]:
        """See Engine.take_timings."""
        return self._stopwatch.take()

    def drop(self, key: str) -> None:
        self._drawings.pop(key, None)

    @device_may_be_lost()
    def rest(self) -> float | None:
        """Let go of what was idle for too long; see Engine.rest."""
        if not self._idle_unload_s:
            return None
        left = self._cache.rest(self._idle_unload_s, self._fitting.in_use())
        self._beside = self._held_beside()
        return left

    @device_may_be_lost()
    def close(self) -> None:
        self._backends.stop()
        self._drawings.clear()
        self._cache.clear()
        self._catalogue.close()

    # --- within ----------------------------------------------------------------------

    def _begin(self, request: GenerationRequest, entry: Entry, start: Start) -> Drawing:
        """Once more without OpenVINO's copies of networks, where memory is short by them."""
        vae = self._admission.vae_of(request, entry)
        try:
            return self._fitting.begin(request, entry, vae, start)
        except OutOfMemory:
            if not self._backends.let_go():
                raise
        return self._fitting.begin(request, entry, vae, start)

    def _newest_turn(self, owner: int) -> int:
        """When an owner was served last; who has nothing here was served just now."""
        samples = [s for d in self._drawings.values() for s in d.samples if s.owner == owner]
        return max((sample.last_turn for sample in samples), default=self._turn)

    def _held_beside(self) -> dict[str, int]:
        """Bytes on the device that are not the cache's, as `Holdings` calls them."""
        return {
            "lora_bytes": self._shelf.byte_size,
            "backend_bytes": self._backends.byte_size,
            "filter_bytes": self._filter.byte_size,
            "prompt_cache_bytes": self._admission.prompt_cache_bytes,
        }

    def _folders(self) -> list[Path]:
        """Of diffusers models, which may bring a safety checker."""
        return [e.path for e in self._catalogue.entries() if e.format == "diffusers"]

    def _shrink(self, batch: Sequence[Sample], first: Drawing, error: OutOfMemory) -> list[Outcome]:
        """After a call that was too large for memory: the same samples again, with less."""
        if self._fitting.relieve():
            return []
        if len(batch) > 1:  # none of them may be at fault
            self._fitting.halve(batch)
            return []
        try:
            self._fitting.step_down(first, error)
        except OutOfMemory as final:
            return self._fail({first.key}, final)
        return []

    def _advanced(self, drawing: Drawing, batch: Sequence[Sample]) -> Iterator[Outcome]:
        """What a drawing that has samples in a call shows after it."""
        yield drawing.key, drawing.progress()
        crowd = len(self._drawings)
        for index, sample in enumerate(drawing.samples):
            if sample in batch and not sample.done:
                shown = self._pictures.preview(drawing, index, crowd=crowd)
                yield from ((drawing.key, preview) for preview in shown)

    def _finish(self, drawing: Drawing, sample: Sample) -> Iterator[Outcome]:
        """The picture of a sample that is done, and the end of its drawing if it is the last."""
        if drawing.key not in self._drawings:  # another picture of it has failed
            return
        self._stopwatch.keys = (drawing.key,)
        try:
            self._pictures.complete(drawing, drawing.samples.index(sample))
        except DeviceLost:
            raise
        except RunAIError as error:
            yield from self._fail({drawing.key}, error)
            return
        if drawing.finished:
            del self._drawings[drawing.key]
            self._beside = self._held_beside()  # drawing has added to it
            yield drawing.key, drawing.completed()

    def _fail(self, keys: set[str], error: RunAIError) -> list[Outcome]:
        body = ErrorBody.of(error)
        failed = [(key, self._drawings.pop(key)) for key in keys if key in self._drawings]
        return [(key, Failed(id=drawing.request.id, error=body)) for key, drawing in failed]
