"""Calls of a UNet that are recorded once and played again from then on.

Theory of operation. A GPU is told a UNet call as a thousand small orders, one after another, from
Python; with one picture of 512 × 512 it has done them sooner than it is told them. A *recording*
is the orders of one call, given to the GPU at once. They are the orders themselves: the same places
in memory are read and written, and what Python decided on the way is decided for good. So

- what goes in is copied to where the recording reads it, and what comes out is copied from where
  it writes;
- calls of other shapes (rows, latents' size, tokens; and strides) are recordings of their own;
- weights have to be where they were. Where a memory plan moves them, or LoRAs are added, or a
  part of the network is left out, nothing is recorded: see `choice`, and `_may_record`.

Nobody waits for a recording: a call is made as ever the first times that its shapes come, and then
recorded beside the answer that was made as ever, which takes about as long as a call. A recording
has to say the same as it was told to record, bit for bit, or it is not used: so a picture does not
depend on when its calls were recorded.

What makes recordings is a `Recorder`; here nothing knows of CUDA. One thread.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch

from runai.engine.backends.interface import Denoiser
from runai.engine.devices import is_out_of_memory
from runai.engine.faults import is_device_lost
from runai.engine.plan import Work
from runai.schema.events import Backend

log = logging.getLogger(__name__)
WARM = 2  # calls of the same shapes that are made as ever first: what is drawn once is not recorded
MOST = 32  # recordings of a UNet; the longest unused goes
MOST_SHAPES = 256  # that are remembered, with and without a recording
Call = Callable[[], torch.Tensor]
# of all tensors that go in; how one lies in memory decides which way it is computed with
Shapes = tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]


class Recorder(Protocol):
    """Makes recordings, for one device. Raises RuntimeError where a call cannot be recorded."""

    def __call__(self, call: Call) -> tuple[Callable[[], None], torch.Tensor, int]:
        """Record a call without making it: what plays it, where its answer is after it was played,
        and how many bytes it holds.
        """
        ...


@dataclass(frozen=True, eq=False)
class Recording:
    """`given`: what it reads. `said`: what it writes. `weights`: what else it reads, and where."""

    play: Callable[[], None]
    given: Mapping[str, Any]
    said: torch.Tensor
    weights: tuple[torch.Tensor, ...]
    addresses: list[int]
    bytes: int

    @property
    def is_true(self) -> bool:
        """Whether the weights are where they were."""
        return [weight.data_ptr() for weight in self.weights] == self.addresses

    def __call__(self, given: Mapping[str, Any]) -> torch.Tensor:
        for there, here in zip(_leaves(self.given), _leaves(given), strict=True):
            there.copy_(here)
        self.play()
        return self.said.clone()


class Recordings:
    """Of one UNet. `bytes`: what all take, beside the weights. `settled`: whether calls like the
    newest will go on taking as long as that did.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.settled = True
        self._recorder: Recorder | None = recorder
        self._met: OrderedDict[Shapes, int] = OrderedDict()  # calls made as ever
        self._made: OrderedDict[Shapes, Recording] = OrderedDict()

    @property
    def bytes(self) -> int:
        return sum(recording.bytes for recording in self._made.values())

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
        if self._recorder is None:
            self.settled = True
            return False
        count = self._met[shapes] = self._met.get(shapes, 0) + 1
        self._met.move_to_end(shapes)
        if len(self._met) > MOST_SHAPES:
            self._met.popitem(last=False)
        self.settled = count > WARM
        return count == WARM

    def record(
        self,
        shapes: Shapes,
        call: Callable[[Mapping[str, Any]], torch.Tensor],
        given: Mapping[str, Any],
        said: torch.Tensor,
        weights: tuple[torch.Tensor, ...],
    ) -> None:
        """Record a call of which is known what it says; keep it if it says so too."""
        if self._recorder is None:
            return
        try:
            own = _copied(given)
            play, there, size = self._recorder(lambda: call(own))
            made = Recording(play, own, there, weights, [w.data_ptr() for w in weights], size)
            good = torch.equal(made(given), said)
        except RuntimeError as error:
            if is_device_lost(error):
                raise
            # a GPU that was left in the middle of a recording is not asked for another one
            self._give_up("memory ran out" if is_out_of_memory(error) else _first_line(error))
            return
        if not good:
            if bool(torch.isfinite(said).all()):
                self._give_up("what was recorded says something else")
            return
        self._made[shapes] = made
        if len(self._made) > MOST:
            self._made.popitem(last=False)
        log.info("Calls of %s rows are recorded: %d bytes more", shapes[0][0], size)

    def _give_up(self, reason: str) -> None:
        self.clear()
        self._recorder = None
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
        return self.recordings.settled

    def __call__(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor,
        told: Mapping[str, Any],
    ) -> torch.Tensor:
        given = {"latents": latents, "timesteps": timesteps, "text": text, "told": told}
        shapes = tuple((tuple(t.shape), t.stride(), t.dtype) for t in _leaves(given))
        if self._is_moved_about:
            self.recordings.clear()
        elif recording := self.recordings.find(shapes):
            return recording(given)
        said = self.usual(latents, timesteps, text, told)
        if self._may_record(shapes, len(latents)):
            weights = (*self.unet.parameters(), *self.unet.buffers())
            self.recordings.record(shapes, lambda own: self.usual(**own), given, said, weights)
        return said

    def _may_record(self, shapes: Shapes, rows: int) -> bool:
        if self._is_moved_about or not self.recordings.is_due(shapes):
            return False
        return self.has_room(rows)

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
        return sum(recordings.bytes for recordings in self._of.values())

    def denoiser(self, usual: Denoiser, unet: Any, work: Work) -> Denoiser:
        """For a request that takes `work`."""

        def has_room(rows: int) -> bool:
            return self._spare_bytes() >= replace(work, rows=rows).unet_bytes

        recordings = self._of.setdefault(unet, Recordings(self._recorder))
        return RecordedDenoiser(usual, unet, recordings, has_room)

    def forget(self) -> bool:
        """Let go of all; whether there were any."""
        return bool(sum(recordings.clear() for recordings in self._of.values()))


def _leaves(given: Any) -> Iterator[torch.Tensor]:
    """All tensors of what a call is given, in the order in which they stand there."""
    if isinstance(given, torch.Tensor):
        yield given
        return
    for value in given.values():
        yield from _leaves(value)


def _copied(given: Any) -> Any:
    if isinstance(given, torch.Tensor):
        return given.clone()
    return {name: _copied(value) for name, value in given.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
