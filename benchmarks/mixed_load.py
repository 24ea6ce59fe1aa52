"""A short request behind a long one, against the same alone; and who is served when.

    python benchmarks/mixed_load.py [--full] [--size 256] [--short 4] [--long 50] [--rounds 7]

A client asks for a picture of --short steps while another's of --long steps is being drawn, over a
real server. Then a mixed load, drawn once: clients come one after another, with few steps and many,
with and without guidance; each of their steps is a stretch of the time line. Without --full the
example model is used, see `example.py`.
"""

from __future__ import annotations

import argparse
import itertools
import threading
import time
from functools import partial
from typing import Any

import plots
from example import example_engine
from serving import ask, serving, together
from side_by_side import compare

from runai.schema.events import Accepted, JobEvent, Progress
from runai.schema.requests import TextToImage

# steps, guidance, when the client comes: as a share of what the first takes
LOAD = ((50, 7.5, 0.0), (4, 7.5, 0.1), (12, 1.0, 0.25), (20, 7.5, 0.4), (4, 1.0, 0.7))


def request(args: argparse.Namespace, steps: int, **fields: Any) -> TextToImage:
    return TextToImage(
        id="b",
        prompt=f"a red circle, {steps}",
        num_inference_steps=steps,
        width=args.size,
        height=args.size,
        seed=steps,
        **fields,
    )


def alone(port: int, args: argparse.Namespace) -> float:
    return ask(port, request(args, args.short))


def behind(port: int, args: argparse.Namespace) -> float:
    """Seconds of the short one that comes when the long one is under way."""
    under_way, done = threading.Event(), threading.Event()

    def hear(event: JobEvent) -> None:
        if isinstance(event, Progress):
            under_way.set()

    def long() -> None:
        ask(port, request(args, args.long), hear)
        done.set()

    def short() -> float:
        under_way.wait()
        took = ask(port, request(args, args.short))
        assert not done.is_set(), "the long one was over first: give it more steps"
        return took

    return float(together(long, short)[1])


class Watched:
    """A client of the mixed load, and when its steps were done."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.times: list[float] = []

    def hear(self, event: JobEvent) -> None:
        if isinstance(event, Accepted | Progress):
            self.times.append(time.perf_counter())

    def stretches(self, began: float) -> list[plots.Point]:
        since = [round(at - began, 4) for at in self.times]
        return list(itertools.pairwise(since))


def time_line(port: int, args: argparse.Namespace) -> plots.TimeLine:
    first_s = ask(port, request(args, LOAD[0][0]))
    clients = [
        Watched(f"{i + 1}: {steps} steps{'' if guidance > 1 else ', no guidance'}")
        for i, (steps, guidance, _) in enumerate(LOAD)
    ]

    def come(client: Watched, steps: int, guidance: float, after: float) -> None:
        time.sleep(after * first_s)
        ask(port, request(args, steps, guidance_scale=guidance), client.hear)

    began = time.perf_counter()
    together(*(partial(come, client, *row) for client, row in zip(clients, LOAD, strict=True)))
    return plots.TimeLine(
        "mixed-load",
        f"A mixed load: five clients, {args.size}²",
        "seconds",
        {client.name: client.stretches(began) for client in clients},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--short", type=int, default=4)
    parser.add_argument("--long", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with example_engine(full=args.full) as engine, serving(engine) as port:
        name = f"{args.short} steps behind {args.long}, against alone ({args.size}²"
        compare(
            f"{name}{', SD 1.5 size' if args.full else ''})",
            lambda: behind(port, args),
            lambda: alone(port, args),
            rounds=args.rounds,
        ).show()
        plots.show(time_line(port, args))


if __name__ == "__main__":
    main()
