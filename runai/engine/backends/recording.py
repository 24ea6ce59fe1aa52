"""Calls of a UNet that are recorded once and played again from then on.

Theory of operation. A GPU is told a UNet call as a thousand small orders, one after another, from
Python; with one picture of 512 × 512 it has done them sooner than it is told them. A *recording*
is the orders of one call, given to the GPU at once. They are the orders themselves: the same places
in memory are read and written, and what Python decided on the way is decided for good. So

- what goes in is copied to where the recording reads it, and what comes out is copied from where
  it writes;
- calls of other shapes (rows, latents' size, tokens; and strides) are recordings of their own;
- weights have to be where they were. Where a memory plan moves them, or LoRAs are added, or a
  part of the network is left out, nothing is recorded (`choice`).

Nobody waits for a recording: a call is made as ever the first times that its shapes come, and then
recorded beside the answer, which takes about as long as a call. A recording has to say the same as
the call that it was made of, bit for bit, or it is not used: so a picture does not depend on when
its calls were recorded.

What makes recordings is a `Recorder`; here nothing knows of CUDA. One thread.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch

from runai.engine.backends.interface import Asked, Denoiser
from runai.engine.devices import is_out_of_memory
from runai.engine.faults import first_line, is_device_lost
from runai.engine.plan import Work
from runai.schema.events import Backend

log = logging.getLogger(__name__)
WARM = 2  # calls of the same shapes that are made as ever first: what is drawn once is not recorded
RETRY = 256  # calls after which one that could not be recorded is tried again
MOST = 64  # recordings of a UNet; the longest unused goes
MOST_SHAPES = 256  # that are remembered, with and without a recording
# what a recorder may raise; whatever it is, there is the answer as ever
FAULTS = (RuntimeError, AssertionError, AttributeError, TypeError, ValueError)
Call = Callable[[], torch.Tensor]
# of all tensors that go in; how one lies in memory decides which way it is computed with
Shapes = tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]


class Recorder(Protocol):
    """Makes recordings, for one device. `bytes`: what all take that there are, any thread."""

    bytes: int

    def __call__(self, call: Call) -> tuple[Callable[[], None], torch.Tensor]:
        """Record a call without making it: what plays it, and where its answer is afterwards.

        Raises one of `FAULTS` where it cannot be recorded.
        """
        ...


@dataclass(frozen=True, eq=False)
class Recording:
    """`given`: what it reads. `said`: what it writes. `weights`: what else it reads, and where."""

    play: Callable[[], None]
    given: Asked
    said: torch.Tensor
    weights: tuple[torch.Tensor, ...]
    addresses: list[int]

    @property
    def is_true(self) -> bool:
        """Whether the weights are where they were."""
        return [weight.data_ptr() for weight in self.weights] == self.addresses

    def __call__(self, asked: Asked) -> torch.Tensor:
        for there, here in zip(self.given.tensors, asked.tensors, strict=True):
            there.copy_(here)
        self.play()
        return self.said.clone()


class Recordings:
    """Of one UNet. `recorder`: None when no more are made. `settled`: whether calls like the newest
    will go on taking as long as that did.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder: Recorder | None = recorder
        self.settled = True
        self._met: OrderedDict[Shapes, int] = OrderedDict()  # calls made as ever
        self._made: OrderedDict[Shapes, Recording] = OrderedDict()

    @property
    def recorded(self) -> int:
        """How many there are."""
        return len(self._made)

    def clear(self) -> bool:
        """Let go of all; whether there was any."""
        there = bool(self._made)
        self._made.clear()
        self._met.clear()
        return there

    def find(self, shapes: Shapes) -> Recording | None:
        """The recording of such calls, if there is one, and it is still true."""
        recording = self._made.get(shapes)
        if recording is None:
            return None
        if not recording.is_true:
            self.clear()
            return None
        self._made.move_to_end(shapes)
        self.settled = True
        return recording

    def is_due(self, shapes: Shapes) -> bool:
        """Whether the call that was just made as ever should be recorded."""
        if self.recorder is None:
            self.settled = True
            return False
        count = self._met[shapes] = self._met.get(shapes, 0) + 1
        self._met.move_to_end(shapes)
        if len(self._met) > MOST_SHAPES:
            self._met.popitem(last=False)
        due = count == WARM or count % RETRY == 0
        self.settled = count > WARM and not due
        return due

    def record(
        self,
        recorder: Recorder,
        shapes: Shapes,
        call: Callable[[Asked], torch.Tensor],
        asked: Asked,
        weights: tuple[torch.Tensor, ...],
        said: torch.Tensor,
    ) -> None:
        """Record a call of which is known what it says; keep it if it says so too."""
        own = asked.copied()
        try:
            play, there = recorder(lambda: call(own))
            made = Recording(play, own, there, weights, [w.data_ptr() for w in weights])
            same = torch.equal(made(asked), said)
        except FAULTS as error:
            if is_device_lost(error):
                raise
            self._could_not(error)
            return
        if same:
            self._keep(shapes, made)
        elif bool(torch.isfinite(said).all()):
            self.clear()
            self._give_up("what was recorded says something else")

    def _keep(self, shapes: Shapes, made: Recording) -> None:
        self._made[shapes] = made
        if len(self._made) > MOST:
            gone, _ = self._made.popitem(last=False)
            self._met.pop(gone, None)
        log.info("UNet calls of %s are recorded", shapes[0][0])

    def _could_not(self, error: Exception) -> None:
        if is_out_of_memory(error):
            log.info("A UNet call was not recorded: there is no memory for it")
        else:  # a GPU that was left in the middle of a recording is not asked for another one
            self._give_up(first_line(error))

    def _give_up(self, reason: str) -> None:
        self.recorder = None
        log.warning("UNet calls are not recorded any more: %s", reason)


@dataclass(frozen=True, eq=False)
class RecordedDenoiser:
    """`usual`: what makes a call as ever. `unet`: the network that it calls. `has_room`: whether
    there is memory to record a call of so many rows.
    """

    usual: Denoiser
    unet: Any
    recordings: Recordings
    has_room: Callable[[int], bool]
    backend: Backend = "cuda-graphs"

    @property
    def is_settled(self) -> bool:
        return self._is_moved_about or self.recordings.settled

    def __call__(self, asked: Asked) -> torch.Tensor:
        if self._is_moved_about:
            return self.usual(asked)
        shapes = tuple((tuple(t.shape), t.stride(), t.dtype) for t in asked.tensors)
        if recording := self.recordings.find(shapes):
            return recording(asked)
        said, recorder = self.usual(asked), self.recordings.recorder
        due = self.recordings.is_due(shapes)
        if due and recorder is not None and self.has_room(len(asked.latents)):
            weights = (*self.unet.parameters(), *self.unet.buffers())
            self.recordings.record(recorder, shapes, self.usual, asked, weights, said)
        return said

    def whole(self, asked: Asked) -> tuple[torch.Tensor, torch.Tensor]:
        return self.usual.whole(asked)

    def shallow(self, asked: Asked, deep: torch.Tensor) -> torch.Tensor:
        return self.usual.shallow(asked, deep)

    @property
    def _is_moved_about(self) -> bool:
        """Whether a memory plan brings its weights when it is called (accelerate's hooks)."""
        return hasattr(self.unet, "_hf_hook")


class RecordedUnets:
    """All recordings, of each UNet its own, which go with it. `spare_bytes`: what can be had."""

    def __init__(self, recorder: Recorder, spare_bytes: Callable[[], int]) -> None:
        self._recorder = recorder
        self._spare_bytes = spare_bytes
        self._of: WeakKeyDictionary[Any, Recordings] = WeakKeyDictionary()

    @property
    def bytes(self) -> int:
        """What they take on the device. Any thread."""
        return self._recorder.bytes

    def denoiser(self, usual: Denoiser, unet: Any, work: Work) -> Denoiser:
        """For a request that takes `work`. Room is left to decode its pictures."""

        def has_room(rows: int) -> bool:
            needed = replace(work, rows=rows).unet_bytes + work.decode_bytes(tiled=False)
            return self._spare_bytes() >= needed

        recordings = self._of.setdefault(unet, Recordings(self._recorder))
        if recordings.recorder is None:
            return usual
        return RecordedDenoiser(usual, unet, recordings, has_room)

    def forget(self, unet: Any = None) -> bool:
        """Let go of all, or of one UNet's; whether there were any. They are made anew where there
        is room.
        """
        chosen = list(self._of) if unet is None else [unet]
        return bool(sum(self._of[one].clear() for one in chosen if one in self._of))
