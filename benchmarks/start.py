"""How soon a server that was just started can be connected to, and has drawn.

    python benchmarks/start.py [--rounds N]

Listening is compared with a Python process that does nothing but listen; being ready to draw, and
the first picture (one step, 128 × 128, the example model), with one that imports torch and the
diffusers components the engine uses, which any server of this kind must do.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from side_by_side import compare

from runai.client import Client
from runai.schema.requests import TextToImage

LISTEN = (
    "import socket,sys; s=socket.socket(); s.setsockopt(1,2,1);"
    "s.bind(('127.0.0.1',int(sys.argv[1]))); s.listen(); s.accept()"
)
IMPORT = (
    "import torch; from diffusers import AutoencoderKL, UNet2DConditionModel,"
    "EulerDiscreteScheduler; from diffusers.image_processor import VaeImageProcessor;"
    "from transformers import CLIPTextModel, CLIPTokenizer"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: Callable[[int], list[str]]) -> Iterator[tuple[float, int]]:
    """A process with a free port; when it was started."""
    port = free_port()
    began = time.perf_counter()
    with subprocess.Popen(command(port), stderr=subprocess.DEVNULL) as process:
        try:
            yield began, port
        finally:
            process.terminate()


def serve(port: int) -> list[str]:
    return [sys.executable, "-m", "runai", "serve", "--port", str(port), "--keep-alive"]


def listen(port: int) -> list[str]:
    return [sys.executable, "-c", LISTEN, str(port)]


def until_connected(command: Callable[[int], list[str]]) -> float:
    with started(command) as (began, port):
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                time.sleep(0.001)
                continue
            return time.perf_counter() - began


@contextmanager
def connected() -> Iterator[tuple[float, Client]]:
    """A client of a server that has just been started; when that was."""
    with started(serve) as (began, port):
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        with Client("127.0.0.1", port) as client:
            yield began, client


def until_ready() -> float:
    with connected() as (began, client):
        client.models()  # which waits for the engine
        return time.perf_counter() - began


def until_drawn() -> float:
    with connected() as (began, client):
        request = TextToImage(id="b", prompt="a red circle", num_inference_steps=1)
        for _ in client.generate(request):
            pass
        return time.perf_counter() - began


def imported() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORT], check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    compare(
        "exec to accepting, against a bare listener",
        lambda: until_connected(serve),
        lambda: until_connected(listen),
        rounds=rounds,
    ).show()
    for what, ours in (("ready to draw", until_ready), ("first picture", until_drawn)):
        compare(
            f"exec to {what}, against importing the same components",
            ours,
            imported,
            rounds=max(rounds // 3, 3),
        ).show()


if __name__ == "__main__":
    main()
