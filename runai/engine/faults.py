"""What torch and diffusers raise while drawing, as errors that say what to do."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from runai.engine.devices import is_out_of_memory
from runai.errors import EngineError, OutOfMemory

# what torch and diffusers raise while drawing; anything else is a fault of ours
_DEVICE_FAULTS = (RuntimeError, ValueError, TypeError, LookupError, MemoryError)


@contextmanager
def device_errors() -> Iterator[None]:
    """Raises OutOfMemory or EngineError for what a network's call raises."""
    try:
        yield
    except _DEVICE_FAULTS as error:
        if is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)  # they hold what had been computed
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise OutOfMemory("There is not enough memory on the device for this.") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise EngineError(f"Drawing failed: {reason}") from error
