"""The pictures of drawings: finished ones, checked and marked as the request wants, and previews.

A finished picture that memory is too short for is made again by a plan that needs less; a
preview is not worth that. A preview is decoded by a tiny autoencoder where one is there, else
by a linear map. What latents become is `finish`'s business.

A preview by a tiny autoencoder costs a tenth of a step, more or less, and all wait for it. So there
are as many of these as a hundredth of the time pays for: until the first one the linear map's are
shown, which cost next to nothing, and between two of them none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch

from runai.engine import finish, images, vaes
from runai.engine.catalogue import Catalogue
from runai.engine.drawing import PREVIEW_EVERY, Drawing, Drawn
from runai.engine.faults import device_errors
from runai.engine.fitting import Fitting
from runai.engine.images import Picture
from runai.engine.model import LoadedModel
from runai.engine.safety import SafetyFilter
from runai.engine.stopwatch import Stopwatch
from runai.engine.watermark import Watermark
from runai.errors import DeviceLost, ModelError, OutOfMemory, RunAIError
from runai.schema.events import Preview

FINE_SHARE = 0.01  # of the time, at most, that goes into previews by tiny autoencoders
FORGOTTEN = 0.9  # what is left of their price where it was too high: it may have been a hiccup's


class Pictures:
    """Makes them, and keeps what it learns of a model for its previews."""

    def __init__(
        self,
        catalogue: Catalogue,
        fitting: Fitting,
        safety: SafetyFilter,
        watermark: Watermark,
        stopwatch: Stopwatch,
    ) -> None:
        self._catalogue = catalogue
        self._fitting = fitting
        self._filter = safety
        self._watermark = watermark
        self._stopwatch = stopwatch
        self._previewer = finish.Previewer()
        # seconds that the newest preview by a tiny autoencoder took, for each of the latents'
        # numbers; 0 after the first, which takes longer than all others
        self._fine_s: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def prepare(self, drawing: Drawing) -> None:
        """Have what a drawing's previews are decoded by, where it is there and there is room."""
        model = drawing.model
        if not drawing.request.preview or model.tiny is not None or drawing.plan.tiled:
            return
        vae = vaes.for_previews(self._catalogue.entries("vae"), model.entry)
        if vae is None:
            return
        try:
            self._fitting.preview_by(drawing, vae)
        except (ModelError, OutOfMemory) as error:
            drawing.notes = (*drawing.notes, f"Previews are coarse. {error.message}")

    def complete(self, drawing: Drawing, index: int) -> None:
        """Add the picture of a sample that is done. Raises a RunAIError if there can be none."""
        while index not in drawing.pictures:
            try:
                with device_errors():
                    self._decode(drawing, index)
            except OutOfMemory as error:
                self._fitting.step_down(drawing, error)

    def preview(self, drawing: Drawing, index: int, *, crowd: int) -> Iterator[Preview]:
        """What a sample looks like at this step, if that is wanted now. `crowd`: how many requests
        are being drawn.
        """
        sample = drawing.samples[index]
        if sample.estimate is None or sample.position % PREVIEW_EVERY:
            return
        try:
            with device_errors():
                png = self._preview(drawing, index, sample.estimate, crowd)
        except DeviceLost:
            raise
        except RunAIError:  # a picture without previews is better than none
            sample.wants_estimate, sample.estimate = False, None
            return
        if png:
            yield Preview(id=drawing.request.id, index=index, step=sample.position, png=png)

    def _preview(self, drawing: Drawing, index: int, estimate: torch.Tensor, crowd: int) -> bytes:
        """By a tiny autoencoder where there is one and memory is not short, else coarse; nothing
        where a fine one was shown and time is short for the next.
        """
        model = drawing.previewed_by or drawing.model
        there = model.tiny is not None and model.tiny.device.type == model.device.type
        if there and not drawing.plan.tiled:
            if self._is_paid_for(drawing, index, model.tiny, estimate, crowd):
                return self._fine(drawing, index, model, estimate)
            if drawing.fine[index]:
                return b""
        return self._previewer.draw(drawing.model, estimate)

    def _is_paid_for(
        self, drawing: Drawing, index: int, tiny: Any, estimate: torch.Tensor, crowd: int
    ) -> bool:
        """Whether there is time for a fine one; of several pictures for those that had fewest."""
        others = (drawing.fine[i] for i, other in enumerate(drawing.samples) if not other.done)
        if drawing.fine[index] > min(others):
            return False
        price_s = self._fine_s.get(tiny, 0.0) * estimate.numel()
        given_s = FINE_SHARE * (time.monotonic() - drawing.started) / crowd
        if drawing.fine_s + price_s <= given_s or tiny not in self._fine_s:
            return True
        self._fine_s[tiny] *= FORGOTTEN
        return False

    def _fine(
        self, drawing: Drawing, index: int, model: LoadedModel, estimate: torch.Tensor
    ) -> bytes:
        estimate.sum().item()  # a GPU is done with all else: what is timed is this alone
        began = time.perf_counter()
        png = images.write_small_png(finish.decode(model, estimate))
        took_s = time.perf_counter() - began
        drawing.fine[index] += 1
        drawing.fine_s += took_s
        known = model.tiny in self._fine_s
        self._fine_s[model.tiny] = took_s / estimate.numel() if known else 0.0
        return png

    def _decode(self, drawing: Drawing, index: int) -> None:
        model, plan = drawing.model, drawing.plan
        with self._stopwatch.time("decode"):
            self._fitting.arrange(model)
            sample = drawing.samples[index]
            decoder = sample.networks.decoder
            picture = finish.decode(model, sample.latents, decoder=decoder, tiled=plan.tiled)
            self._finish(drawing, index, picture)

    def _finish(self, drawing: Drawing, index: int, picture: Picture) -> None:
        """Check and mark it as the request wants, and keep it."""
        model, request, nsfw = drawing.model, drawing.request, False
        if request.nsfw_filter and not model.entry.example:
            picture, nsfw = self._filter.check(picture)
        if request.watermark and not nsfw:
            picture, notes = self._watermark.mark(picture, model.arch.version)
            drawing.notes = tuple(dict.fromkeys((*drawing.notes, *notes)))
        drawing.pictures[index] = Drawn(picture, nsfw=nsfw)
