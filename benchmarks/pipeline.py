"""One picture through the socket, against diffusers' own pipeline with the same networks.

    python benchmarks/pipeline.py CHECKPOINT --vocabulary FOLDER [--steps 4] [--size 256]
        [--device auto] [--backend auto] [--dtype auto] [--theirs pipeline|loop]
        [--their-dtype fp32] [--rounds 5]

CHECKPOINT: a single file of Stable Diffusion 1, in a folder named v1 (`full_size.py` writes one).
FOLDER: a base path with the CLIP vocabulary. Euler, guidance 7.5, a prompt and none negative.

Ours is a server in a process of its own and the time from asking to the finished PNG; it draws
until it says by which backend, and by OpenVINO if that is installed and proves itself. Theirs is
another process that holds the networks and times itself, from prompt to picture: the pipeline as
it comes (--theirs pipeline), or the fewest calls that make a picture (loop).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from load import entry_of
from side_by_side import compare
from start import free_port

from runai.client import Client
from runai.engine.devices import choose
from runai.engine.loading import load
from runai.engine.model import LoadedModel
from runai.errors import NoServer
from runai.schema.requests import TextToImage

PROMPT, GUIDANCE = "a photo of a cat", 7.5
WARMING = 4  # pictures: OpenVINO's form is made beside the first, tried at a later one


# --- ours --------------------------------------------------------------------------------


@contextmanager
def served(args: argparse.Namespace) -> Iterator[Client]:
    port = free_port()
    bases = f"{args.checkpoint.resolve().parent.parent}:{args.vocabulary}"
    words = ["--port", str(port), "--keep-alive", "--model-base-path", bases]
    words += ["--backend", args.backend, "--device", args.device, "--dtype", args.dtype]
    with subprocess.Popen([sys.executable, "-m", "runai", "serve", *words]) as process:
        try:
            with _connected(port) as client:
                yield client
        finally:
            process.terminate()


def _connected(port: int) -> Client:
    for _ in range(100):
        try:
            client = Client("127.0.0.1", port)
            client.connect()
        except NoServer:
            time.sleep(0.1)
        else:
            return client
    raise SystemExit("The server did not start.")


def ours(client: Client, args: argparse.Namespace) -> float:
    request = TextToImage(
        id="b",
        model=f"v1/{args.checkpoint.stem}",
        prompt=PROMPT,
        width=args.size,
        height=args.size,
        sampler="euler",
        num_inference_steps=args.steps,
        guidance_scale=GUIDANCE,
        seed=1,
    )
    began = time.perf_counter()
    for _ in client.generate(request):
        pass
    return time.perf_counter() - began


def warm(client: Client, args: argparse.Namespace) -> str:
    """Draw until it is clear which backend draws; which."""
    for _ in range(WARMING):
        print(f"warming up: {ours(client, args):.2f} s", flush=True)
        backends = [one.backend for one in client.status().holdings.loaded]
        if backends[0] != "torch" or args.backend == "torch":
            break
        time.sleep(args.pause)
    return backends[0]


# --- theirs ------------------------------------------------------------------------------


@contextmanager
def child(args: argparse.Namespace) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, *sys.argv, "--be-theirs"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        yield process
        if process.stdin is not None:
            process.stdin.close()


def theirs(process: subprocess.Popen[str]) -> float:
    if process.stdin is None or process.stdout is None:
        raise SystemExit("The other process cannot be talked to.")
    process.stdin.write("draw\n")
    return float(process.stdout.readline())


def be_theirs(args: argparse.Namespace) -> None:
    """Draw a picture for each line that comes, and say how long it took."""
    model = load(
        entry_of(args.checkpoint), choose(args.device, args.their_dtype), [args.vocabulary]
    )
    draw = {"pipeline": _pipeline, "loop": _loop}[args.theirs](model, args)
    for _ in sys.stdin:
        began = time.perf_counter()
        draw()
        print(time.perf_counter() - began, flush=True)


def _pipeline(model: LoadedModel, args: argparse.Namespace) -> Any:
    pipe = StableDiffusionPipeline(
        vae=model.vae,
        text_encoder=model.texts[0].network,
        tokenizer=model.texts[0].tokenizer,
        unet=model.unet,
        scheduler=EulerDiscreteScheduler.from_config(model.scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return lambda: pipe(
        PROMPT,
        width=args.size,
        height=args.size,
        num_inference_steps=args.steps,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(1),
    )


def _loop(model: LoadedModel, args: argparse.Namespace) -> Any:
    tokenizer, network = model.texts[0].tokenizer, model.texts[0].network

    @torch.inference_mode()
    def draw() -> Any:
        ids = tokenizer(["", PROMPT], padding="max_length", return_tensors="pt").input_ids
        text = network(ids.to(model.device)).last_hidden_state
        scheduler = EulerDiscreteScheduler.from_config(model.scheduler)
        scheduler.set_timesteps(args.steps, device=model.device)
        side = args.size // model.scale
        latents = torch.randn(1, 4, side, side).to(model.device) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            given = scheduler.scale_model_input(latents, timestep).to(model.dtype)
            times = timestep.expand(2)
            said = model.unet(torch.cat([given] * 2), times, text, return_dict=False)[0].float()
            negative, positive = said.chunk(2)
            guided = negative + GUIDANCE * (positive - negative)
            latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        pixels = model.vae.decode(model.unscaled(latents).to(model.dtype), return_dict=False)[0]
        return model.images.postprocess(pixels.float(), output_type="pil")

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--theirs", choices=("pipeline", "loop"), default="pipeline")
    parser.add_argument("--their-dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pause", type=float, default=20.0, help="seconds to compile in")
    parser.add_argument("--be-theirs", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.be_theirs:
        return be_theirs(args)
    with served(args) as client, child(args) as other:
        backend = warm(client, args)
        name = (
            f"{args.steps} steps, {args.size} × {args.size}, by {backend}, "
            f"against diffusers' {args.theirs} in {args.their_dtype}"
        )
        compare(name, lambda: ours(client, args), lambda: theirs(other), rounds=args.rounds).show()
    return None


if __name__ == "__main__":
    main()
