"""How soon a cancel frees the device: from the end of the running step to another's first.

    python benchmarks/cancel.py [--full] [--size 256] [--rounds 20]

A picture of --size is being drawn for one client; at a random moment of a step it is canceled, and
another client, connected already, asks for one of another size, which can share no call with it.
A step is a turn of the engine's loop. A promise is broken, and the exit code 1, if there is one for
who was canceled after that which was under way when the cancel was answered, or if the other's
first begins later than `MOST_S` after that (in more than one round of ten: a machine has hiccups
of its own).
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

from example import example_engine
from serving import ask, serving

from runai.client import Client
from runai.engine.engine import TorchEngine
from runai.schema.events import Canceled, Completed, Progress
from runai.schema.requests import TextToImage

MOST_S = 0.050
OTHER = 64  # pixels a side, of who comes after


@dataclass
class Turn:
    """One step: of which sizes there were pictures in the engine, and when."""

    sides: set[int | None]
    began: float
    ended: float = 0.0


class Turns:
    """The engine's steps, as the worker has them done."""

    def __init__(self, engine: TorchEngine) -> None:
        self.made: list[Turn] = []
        self._engine, self._step = engine, engine.step
        engine.step = self._timed  # type: ignore[method-assign]

    def _timed(self) -> Any:
        drawings = self._engine._drawings.values()
        turn = Turn({drawing.request.width for drawing in drawings}, time.perf_counter())
        outcomes = self._step()
        turn.ended = time.perf_counter()
        self.made.append(turn)
        return outcomes


def request(name: str, side: int, steps: int) -> TextToImage:
    return TextToImage(
        id=name,
        prompt="a red circle",
        num_inference_steps=steps,
        width=side,
        height=side,
        seed=1,
    )


def canceled(port: int, side: int, turns: Turns, chance: random.Random) -> dict[str, float]:
    """One cancel: what followed it, in seconds."""
    turns.made.clear()
    with Client("127.0.0.1", port) as client, Client("127.0.0.1", port) as other:
        other.connect()
        answers = client.generate(request("long", side, 150))
        seen = (event for event in answers if isinstance(event, Progress))
        for _ in range(3):
            next(seen)
        step_s = turns.made[1].ended - turns.made[1].began
        time.sleep(chance.random() * step_s)
        at = time.perf_counter()
        client.cancel("long")
        asked = other.generate(request("short", OTHER, 2))
        last = list(answers)[-1]
        answered_at = time.perf_counter()
        assert isinstance(last, Canceled), last
        assert isinstance(list(asked)[-1], Completed)
    mine = [turn for turn in turns.made if side in turn.sides]
    others = [turn for turn in turns.made if OTHER in turn.sides]
    after = [turn for turn in mine if turn.began > answered_at]
    running = [turn for turn in mine if turn.began <= answered_at][-1]
    return {
        "answered": answered_at - at,
        "steps_after": len(after),
        "next_began": others[0].began - max(running.ended, at),
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
        turns = Turns(engine)
        found = [canceled(port, args.size, turns, chance) for _ in range(args.rounds)]
    waits = sorted(one["next_began"] for one in found)
    most = waits[int(0.9 * len(waits))]
    figures = {
        "name": f"cancel, to another client's first step ({args.size}²)",
        "step_s": round(statistics.median(one["step"] for one in found), 4),
        "answered_s": round(statistics.median(one["answered"] for one in found), 4),
        "steps_after": sum(one["steps_after"] for one in found),
        "next_median_s": round(statistics.median(waits), 4),
        "next_p90_s": round(most, 4),
        "next_worst_s": round(waits[-1], 4),
        "rounds": args.rounds,
    }
    print(
        f"{figures['name']}: {1000 * figures['next_median_s']:.1f} ms after the end of the running "
        f"step (worst {1000 * figures['next_worst_s']:.1f}), a step takes "
        f"{1000 * figures['step_s']:.1f} ms; {figures['steps_after']} further steps"
    )
    print(json.dumps(figures))
    return int(bool(figures["steps_after"]) or most > MOST_S)


if __name__ == "__main__":
    sys.exit(main())
