"""What it gains to write pictures down on another thread while the next ones are drawn.

    python benchmarks/writing.py [--step-ms 12] [--steps 4] [--size 512] [--rounds 7]

A device that computes by itself is stood in for by a pause: as with a GPU, the thread that asked
waits, and others run. All else is the server's: queue, worker, and PNGs of a picture with the
noise of a photograph. The other side writes each picture before it does the next step, as it is
done where there is no such thread.
"""

from __future__ import annotations

import argparse
import functools
import time
from typing import Any

import numpy as np
from PIL import Image
from side_by_side import compare

from runai.engine.images import write_png
from runai.jobs.service import Service
from runai.schema.events import TERMINAL, Completed
from runai.schema.requests import TextToImage
from runai.testing.scripted import ScriptedEngine

SAID = {"prompt": "a lake", "negative_prompt": "", "model": "b", "num_inference_steps": 4}
SAID |= {
    "sampler": "lcm",
    "guidance_scale": 1.0,
    "seed": 1,
    "width": 512,
    "height": 512,
    "loras": [],
}


def photo(side: int) -> Image.Image:
    """Soft shapes with a photograph's noise."""
    rows, columns = np.mgrid[0:side, 0:side]
    shape = [
        np.sin(rows / (37 + 9 * band)) + np.cos(columns / (23 + 5 * band)) for band in range(3)
    ]
    noise = np.random.default_rng(1).normal(0, 3, (side, side, 3))
    return Image.fromarray((128 + 50 * np.stack(shape, -1) + noise).clip(0, 255).astype("uint8"))


class Device(ScriptedEngine):
    """Takes its time for a step of whatever shares it."""

    step_s = 0.0

    def step(self) -> Any:
        time.sleep(self.step_s)
        return super().step()


def seconds(args: argparse.Namespace, *, late: bool) -> float:
    """Of all requests, from the first one handed in to the last answer."""
    picture = photo(args.size)
    engine = Device(capacity=args.at_once, late=late, draw=lambda *_: write_png(picture, SAID))
    engine.step_s = args.step_ms / 1000
    service = Service(functools.partial(lambda made: made, engine))
    service.start()
    try:
        session = service.open_session()
        began = time.perf_counter()
        for number in range(args.requests):
            session.submit(TextToImage(id=str(number), num_inference_steps=args.steps))
        left = args.requests
        while left and (answer := session.take()) is not None:
            if isinstance(answer[0], TERMINAL):
                assert isinstance(answer[0], Completed), answer[0]
                left -= 1
        return time.perf_counter() - began
    finally:
        service.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step-ms", type=float, default=12.0, help="of the device")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--at-once", type=int, default=2, help="that share a step")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    compare(
        f"{args.requests} pictures of {args.size}², {args.steps} steps of {args.step_ms:g} ms on a "
        f"device of its own, {args.at_once} at once: written beside it, against in turn",
        lambda: seconds(args, late=True),
        lambda: seconds(args, late=False),
        rounds=args.rounds,
    ).show()


if __name__ == "__main__":
    main()
