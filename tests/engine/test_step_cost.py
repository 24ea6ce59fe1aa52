"""What a step costs beside the network itself, counted: torch's operations, copies and reads.

The same on every machine, so that what makes a step dearer is noticed here; seconds are
benchmarks/step_cost.py's. The bounds are what was counted; where one more is well spent, raise
them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from drawn import draw, held, make_request
from torch.utils._python_dispatch import TorchDispatchMode

from runai.engine.engine import TorchEngine

COPIES = ("cat", "stack", "clone", "copy_", "contiguous")
# of a number, for Python: a GPU has to be waited for where it lies there, as DDIM's timestep does
READS = ("item", "is_nonzero")


class Operations(TorchDispatchMode):
    """Counts torch's operations, by name, but those of the network."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.made: Counter[str] = Counter()
        self._outside = True
        self._handles = [
            network.register_forward_pre_hook(lambda *_: self._turn(outside=False)),
            network.register_forward_hook(lambda *_: self._turn(outside=True)),
        ]

    def _turn(self, *, outside: bool) -> None:
        self._outside = outside

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._outside:
            self.made[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))

    def forget(self) -> None:
        for handle in self._handles:
            handle.remove()


def operations(engine: TorchEngine, pictures: int, **fields: Any) -> Counter[str]:
    """Of one step with so many pictures, after a first."""
    draw(engine)
    engine.admit("k", make_request(num_images=pictures, num_inference_steps=20, **fields))
    engine.step()
    counting = Operations(held(engine).unet)
    with counting:
        engine.step()
    counting.forget()
    engine.drop("k")
    return counting.made


def count(made: Counter[str], names: tuple[str, ...]) -> int:
    return sum(made[name] for name in names)


@pytest.mark.parametrize(
    ("fields", "most", "most_reads"),
    [
        ({"sampler": "euler"}, 38, 2),
        ({"sampler": "euler", "guidance_scale": 1.0}, 33, 2),
        ({"sampler": "euler", "preview": True}, 46, 4),
        ({"sampler": "dpmpp_2m"}, 81, 0),
        ({"sampler": "ddim"}, 52, 6),
        ({"sampler": "euler", "task": "inpaint"}, 55, 2),
    ],
)
def test_a_step_takes_no_more_operations_than_it_did(
    engine: TorchEngine, fields: dict[str, Any], most: int, most_reads: int
) -> None:
    made = operations(engine, 1, **fields)
    assert sum(made.values()) <= most, made
    assert count(made, COPIES) <= 3, made
    assert count(made, READS) <= most_reads, made


def test_a_batch_takes_no_more_for_each_than_one_alone(engine: TorchEngine) -> None:
    alone, together = (operations(engine, n, sampler="euler") for n in (1, 8))
    assert sum(together.values()) <= 8 * sum(alone.values())
    assert count(together, COPIES) == count(alone, COPIES), "all are put together at once"
