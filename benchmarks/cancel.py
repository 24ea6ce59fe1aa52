"""How soon a cancel frees the device: from the end of the running step to another's first.

    python benchmarks/cancel.py [--full] [--size 256] [--rounds 20]

A picture of --size is being drawn for one client; at a random moment of a step it is canceled, and
another client asks for one of another size, which can share no call with it. The UNet's calls are
timed at the network itself. A promise is broken, and the exit code 1, if there is a call for the
canceled one after that which was running, or if the other's first call begins later than
`MOST_S` after it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

from example import example_engine, held
from serving import ask, serving

from runai.client import Client
from runai.schema.events import Canceled, Progress
from runai.schema.requests import TextToImage

MOST_S = 0.050
OTHER = 64  # pixels a side, of who comes after


@dataclass
class Call:
    width: int
    began: float
    ended: float = 0.0


class Calls:
    """When the network was called, and with latents of which width."""

    def __init__(self, unet: Any) -> None:
        self.made: list[Call] = []
        unet.register_forward_pre_hook(self._begin)
        unet.register_forward_hook(self._end)

    def _begin(self, _: Any, args: tuple[Any, ...]) -> None:
        self.made.append(Call(args[0].shape[-1], time.perf_counter()))

    def _end(self, *_: Any) -> None:
        self.made[-1].ended = time.perf_counter()


def request(name: str, side: int, steps: int) -> TextToImage:
    return TextToImage(
        id=name,
        prompt="a red circle",
        num_inference_steps=steps,
        width=side,
        height=side,
        seed=1,
    )


def canceled(port: int, side: int, calls: Calls, chance: random.Random) -> dict[str, float]:
    """One cancel: what followed it, in seconds."""
    calls.made.clear()
    with Client("127.0.0.1", port) as client:
        answers = client.generate(request("long", side, 150))
        seen = (event for event in answers if isinstance(event, Progress))
        for _ in range(3):
            next(seen)
        step_s = calls.made[1].began - calls.made[0].began
        time.sleep(chance.random() * step_s)
        at = time.perf_counter()
        client.cancel("long")
        last = list(answers)[-1]
        answered = time.perf_counter() - at
        assert isinstance(last, Canceled), last
        ask(port, request("short", OTHER, 2))
    running = [call for call in calls.made if call.began <= at]
    after = [call for call in calls.made if call.began > at]
    mine = [call for call in after if call.width == running[-1].width]
    other = next(call for call in after if call.width != running[-1].width)
    return {
        "answered": answered,
        "calls_after": len(mine),
        "next_began": other.began - max(running[-1].ended, at),
        "step": step_s,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    chance = random.Random(1)
    with example_engine(full=args.full) as engine, serving(engine) as port:
        for side in (args.size, OTHER):
            ask(port, request("first", side, 2))
        calls = Calls(held(engine).unet)
        found = [canceled(port, args.size, calls, chance) for _ in range(args.rounds)]
    waits = sorted(one["next_began"] for one in found)
    figures = {
        "name": f"cancel, to another client's first step ({args.size}²)",
        "step_s": round(statistics.median(one["step"] for one in found), 4),
        "answered_s": round(statistics.median(one["answered"] for one in found), 4),
        "calls_after": sum(one["calls_after"] for one in found),
        "next_median_s": round(statistics.median(waits), 4),
        "next_worst_s": round(waits[-1], 4),
        "rounds": args.rounds,
    }
    print(
        f"{figures['name']}: {1000 * figures['next_median_s']:.1f} ms after the end of the running "
        f"step (worst {1000 * figures['next_worst_s']:.1f}), a step takes "
        f"{1000 * figures['step_s']:.1f} ms; {figures['calls_after']} further calls"
    )
    print(json.dumps(figures))
    return int(bool(figures["calls_after"]) or waits[-1] > MOST_S)


if __name__ == "__main__":
    sys.exit(main())
