"""What the worker thread needs of whoever does the drawing: the Engine protocol.

`jobs` knows no torch and `engine` knows no job: they meet in these few methods, all of them
called on the worker thread alone, but for those that say that any thread may call them.
A *key* is the job's name for a request, unique in this server; the engine gives it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runai.schema.events import CallTime, Holdings, JobEvent, Memory, ModelInfo, Unusable
from runai.schema.late import Late
from runai.schema.requests import GenerationRequest
from runai.schema.stages import Spent


class Engine(Protocol):
    """Draws requests, many at a time, one denoising step of one batch per call."""

    def is_warm(self, request: GenerationRequest) -> bool:
        """Whether the request's model is in memory, so that admitting it loads nothing."""
        ...

    def has_room(self) -> bool:
        """Whether one more request may be admitted beside those that are being drawn."""
        ...

    def model_of(self, request: GenerationRequest) -> str:
        """The name of the model a request will be drawn with; raises ModelNotFound."""
        ...

    def preload(self, model: str) -> None:
        """Load a model that nobody has asked for yet; empty: the default one.

        Raises a RunAIError if it cannot be loaded.
        """
        ...

    def admit(self, key: str, request: GenerationRequest, owner: int = 0) -> None:
        """Take a request up: load its model if need be, encode its prompt and images.

        Owners share what the engine can do evenly, however much each of them has drawn.

        Blocks as long as that takes. Raises a RunAIError if it cannot be drawn; then the
        request is not in the engine.
        """
        ...

    def step(self) -> Sequence[tuple[str, JobEvent | Late]]:
        """Do one denoising step of one batch, or finish pictures that have had theirs.

        What came of it, by key. Nothing waits for more than that before others can be let in.

        Events carry the request's own id. A request's `completed` or `failed` is its last
        event, and it is no longer in the engine then; it may be left to be made on another
        thread (`Late`). Does nothing when nothing is admitted.
        """
        ...

    def take_timings(self) -> Sequence[Spent]:
        """How long what was done since the last call took, in order."""
        ...

    def drop(self, key: str) -> None:
        """Forget a request at once; unknown keys are ignored."""
        ...

    def is_busy(self) -> bool:
        """Whether any request is admitted and unfinished."""
        ...

    def rest(self) -> float | None:
        """Let go of what was idle for too long; called when there is nothing to do.

        In how many seconds to call again if there still is nothing; None: not before the
        next request.
        """
        ...

    def models(self) -> list[ModelInfo]:
        """The catalogue. May be called from any thread."""
        ...

    def unusable(self) -> list[Unusable]:
        """What lies beside the models and cannot be used, and why. Any thread."""
        ...

    def loaded_models(self) -> list[str]:
        """The names of the models in memory. Any thread; must not be slow."""
        ...

    def holdings(self) -> Holdings:
        """What is in memory, and how much more could be. Any thread; must not be slow."""
        ...

    def newest_memory(self) -> Memory | None:
        """How the newest request was fitted into memory. Any thread."""
        ...

    def call_times(self) -> Sequence[CallTime]:
        """How long the newest kind of UNet call takes, as far as measured. Any thread."""
        ...

    def close(self) -> None:
        """Let go of everything held."""
        ...
