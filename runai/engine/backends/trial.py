"""Whether OpenVINO's form of a network is worth having: found out at a call that has to be made.

The first call of a `Trial` is put to both, and what torch says is the answer, so that the picture
stays one backend's. OpenVINO has to say the same and to be quicker by something.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from runai.engine.backends.interface import Asked
from runai.schema.events import Backend

log = logging.getLogger(__name__)
FAULTS = (RuntimeError, MemoryError, ValueError, TypeError)
# how far the answers may lie apart, relative to their size: rounding, and nothing more
SAME = {torch.float32: 1e-3, torch.bfloat16: 0.1}
FASTER = 0.95  # of torch's time, at most: less is not worth the memory
Network = Callable[..., torch.Tensor]


@dataclass(eq=False)
class Verdict:
    """`good`: None until it is known. `reason`: in numbers."""

    good: bool | None = None
    reason: str = ""


class Trial:
    """Torch's network, of which one call is put to the `other` as well."""

    backend: Backend = "torch"
    is_settled = True

    def __init__(self, usual: Any, other: Network, same: float, verdict: Verdict) -> None:
        self.usual = usual
        self._other = other
        self._same = same
        self._verdict = verdict

    def __call__(self, *given: Any) -> torch.Tensor:
        if self._verdict.good is not None:
            return self.usual(*given)
        usual_s, said = _timed(self.usual, given)
        try:
            _, others = _timed(self._other, given)  # prepares itself for this size
            other_s, _ = _timed(self._other, given)
        except FAULTS as error:  # whatever goes wrong in it: torch's answer is there
            self._decide(False, f"it failed: {error}")
            return said
        apart = _apart(others, said)
        reason = f"{other_s:.3f} s, torch {usual_s:.3f} s; {apart:.0e} apart"
        self._decide(apart <= self._same and other_s <= FASTER * usual_s, reason)
        return said

    def _decide(self, good: bool, reason: str) -> None:
        self._verdict.good, self._verdict.reason = good, reason
        log.info("OpenVINO was tried, and %s: %s", "is kept" if good else "goes", reason)


class DenoiserTrial(Trial):
    """Of a UNet: tried are calls of which nothing is reused."""

    def whole(self, asked: Asked) -> tuple[torch.Tensor, torch.Tensor]:
        return self.usual.whole(asked)

    def shallow(self, asked: Asked, deep: torch.Tensor) -> torch.Tensor:
        return self.usual.shallow(asked, deep)


def _timed(network: Network, given: tuple[Any, ...]) -> tuple[float, torch.Tensor]:
    began = time.perf_counter()
    said = network(*given)
    return time.perf_counter() - began, said


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The size of the difference, relative to that of the other; infinite for what is no number."""
    if not bool(torch.isfinite(one).all()):
        return float("inf")
    return float((one - other).norm() / other.norm().clamp(min=1e-12))
