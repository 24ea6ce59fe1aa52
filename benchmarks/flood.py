"""What a client waits while another one floods the server, against the same alone.

    python benchmarks/flood.py [--full] [--size 128] [--steps 4] [--flood 64] [--rounds 10]

One client has --flood requests open, as many as a server takes of one; another asks for one
picture.
"""

from __future__ import annotations

import argparse
from functools import partial

from example import example_engine
from serving import ask, serving
from side_by_side import compare

from runai.client import Client
from runai.schema.events import Progress
from runai.schema.requests import TextToImage


def request(args: argparse.Namespace, name: str, seed: int) -> TextToImage:
    return TextToImage(
        id=name,
        prompt=f"a red circle, {seed % 8}",
        num_inference_steps=args.steps,
        width=args.size,
        height=args.size,
        seed=seed,
    )


def flooded(port: int, args: argparse.Namespace) -> float:
    with Client("127.0.0.1", port) as client:
        flood = [client.generate(request(args, str(n), n)) for n in range(args.flood)]
        for event in flood[0]:
            if isinstance(event, Progress):
                break
        took = alone(port, args)
    alone(port, args)  # until what was canceled is in nobody's way
    return took


def alone(port: int, args: argparse.Namespace) -> float:
    return ask(port, request(args, "mine", 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--flood", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    with example_engine(full=args.full) as engine, serving(engine) as port:
        compare(
            f"{args.steps} steps behind {args.flood} requests of another client, against alone "
            f"({args.size}²{', SD 1.5 size' if args.full else ''})",
            partial(flooded, port, args),
            partial(alone, port, args),
            rounds=args.rounds,
        ).show()


if __name__ == "__main__":
    main()
