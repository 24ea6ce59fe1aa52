"""What it costs to draw with another model: one that is kept in memory, against loading it.

    python benchmarks/model_switch.py [--base FOLDER --models NAME NAME] [--rounds 20]

Taking a request up with the other one of two models in turn, its prompt known, against loading that
model. Without --models the two that come with RunAI are used; they are small, so that the ratio
is the worst there is: what takes a request up does not grow with the model.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

from example import FOLDER
from side_by_side import compare

from runai.engine.catalogue import Catalogue
from runai.engine.devices import choose
from runai.engine.engine import TorchEngine
from runai.engine.loading import load
from runai.schema.requests import TextToImage


def switching(engine: TorchEngine, model: str) -> float:
    request = TextToImage(id="b", prompt="a red circle", num_inference_steps=4, model=model)
    began = time.perf_counter()
    engine.admit("b", request)
    took = time.perf_counter() - began
    engine.step()  # what is there must be of use
    engine.drop("b")
    return took


def loading(base: Path, model: str) -> float:
    entry = Catalogue([base]).find(model)
    began = time.perf_counter()
    load(entry, choose(), [base])
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=FOLDER)
    parser.add_argument("--models", nargs=2, default=["v1/shapes", "v2/shapes-v"])
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    engine = TorchEngine(args.base)
    ours, theirs = itertools.cycle(args.models), itertools.cycle(args.models)
    for name in args.models:
        switching(engine, name)
    compare(
        "changing to a model in memory, against loading it",
        lambda: switching(engine, next(ours)),
        lambda: loading(args.base, next(theirs)),
        rounds=args.rounds,
    ).show()
    engine.close()


if __name__ == "__main__":
    main()
