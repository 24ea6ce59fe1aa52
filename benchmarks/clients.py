"""Throughput and latency against the number of clients that ask at once.

    python benchmarks/clients.py [--full] [--size 128] [--steps 20] [--most 8] [--compiled]
        [--rounds 3]

One to --most clients ask for a picture each, at the same time, over a real server. Against the same
pictures one after another by diffusers' own pipeline with the same weights in the same process,
which is what a server without batches does at best; --compiled: with its UNet compiled by torch.
Taking turns; the medians are drawn.
Throughput: pictures a second until the last is there. Latency: what a client waits, the mean.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import Any

import plots
import torch
from diffusers import StableDiffusionPipeline
from example import example_engine, held
from serving import ask, serving, together
from side_by_side import compare

from runai.engine.model import LoadedModel
from runai.engine.samplers import make_scheduler
from runai.schema.requests import TextToImage

PROMPT = "a red circle on a blue background, number {}"
SAMPLER, GUIDANCE = "euler", 7.5


def pipeline_of(model: LoadedModel, *, compiled: bool = False) -> Any:
    """diffusers' own, over the same networks."""
    (text,) = model.texts
    pipe = StableDiffusionPipeline(
        vae=model.vae,
        text_encoder=text.network,
        tokenizer=text.tokenizer,
        unet=torch.compile(model.unet) if compiled else model.unet,
        scheduler=make_scheduler(SAMPLER, model.scheduler, 0),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Both:
    """The same pictures both ways. What each client waited is kept, by way and number."""

    def __init__(self, args: argparse.Namespace, port: int, pipe: Any) -> None:
        self.args, self.port, self.pipe = args, port, pipe
        self.waits: dict[tuple[str, int], list[float]] = {}
        self._asked = 0

    def served(self, clients: int) -> float:
        self._asked += 1  # every round has prompts of its own: none is known already
        requests = [self._request(f"{self._asked}-{i}", i) for i in range(clients)]
        began = time.perf_counter()
        waits = together(*(partial(ask, self.port, request) for request in requests))
        took = time.perf_counter() - began
        self.waits.setdefault(("served", clients), []).extend(waits)
        return took

    def _request(self, name: str, seed: int) -> TextToImage:
        return TextToImage(
            id="b",
            prompt=PROMPT.format(name),
            num_inference_steps=self.args.steps,
            guidance_scale=GUIDANCE,
            sampler=SAMPLER,
            width=self.args.size,
            height=self.args.size,
            seed=seed,
        )

    def one_after_another(self, clients: int) -> float:
        self._asked += 1
        began = time.perf_counter()
        waits = []
        for i in range(clients):
            self.pipe(
                PROMPT.format(f"{self._asked}-{i}"),
                num_inference_steps=self.args.steps,
                guidance_scale=GUIDANCE,
                width=self.args.size,
                height=self.args.size,
            )
            waits.append(time.perf_counter() - began)
        self.waits.setdefault(("in turn", clients), []).extend(waits)
        return waits[-1]

    def latency(self, way: str, clients: int) -> float:
        return statistics.mean(self.waits[way, clients][clients:])  # without the first round's


def measure(args: argparse.Namespace, both: Both) -> tuple[plots.Lines, plots.Lines]:
    theirs = f"{'compiled ' if args.compiled else ''}diffusers, one after another"
    ours = f"runai, {args.size}²"
    rate: dict[str, list[plots.Point]] = {ours: [], theirs: []}
    wait: dict[str, list[plots.Point]] = {ours: [], theirs: []}
    for clients in (n for n in (1, 2, 4, 8, 16, 32) if n <= args.most):
        found = compare(
            f"{clients} at once, against {theirs} ({args.size}², {args.steps} steps)",
            partial(both.served, clients),
            partial(both.one_after_another, clients),
            rounds=args.rounds,
        )
        found.show()
        rate[ours].append((clients, round(clients / found.ours_s, 3)))
        rate[theirs].append((clients, round(clients / found.theirs_s, 3)))
        wait[ours].append((clients, round(both.latency("served", clients), 3)))
        wait[theirs].append((clients, round(both.latency("in turn", clients), 3)))
    x = "clients that ask at once"
    return (
        plots.Lines("throughput", "Throughput", x, "pictures a second", rate),
        plots.Lines("latency", "What a client waits, on average", x, "seconds", wait),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--most", type=int, default=8)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with example_engine(full=args.full) as engine, serving(engine) as port:
        ask(port, TextToImage(id="first", prompt="x", num_inference_steps=1))
        both = Both(args, port, pipeline_of(held(engine), compiled=args.compiled))
        figures = measure(args, both)
        for figure in figures if args.most > 1 else ():  # of one there is nothing to draw
            plots.show(figure)


if __name__ == "__main__":
    main()
