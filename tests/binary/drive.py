"""Draws in every way there is with a program, and keeps the pictures: run as a program.

    python drive.py MODELS OUT -- COMMAND …

COMMAND is `runai`, packaged or not; packaged, it gets an environment of nothing but TMPDIR and
OMP_NUM_THREADS. OUT gets a picture for each request, for another program's to be compared
with, bit by bit. The seed of the one that client_example/client.py draws is in OUT/seed: where
it is there already, that seed is drawn with the command line, for the client cannot choose one.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isolation.drive import bring_loopback_up
from PIL import Image

from runai.client import Client
from runai.engine.archs import ARCHS
from runai.engine.samplers import SCHEDULERS
from runai.schema.codec import parse_task
from runai.schema.events import Completed

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a red circle on a blue background"
PATIENCE_S = 600
KEPT, INTERPRETERS = ("TMPDIR", "OMP_NUM_THREADS"), ("PYTHONPATH", "HOME")
HELPER = "from multiprocessing.resource_tracker import main;main(0)"
Fields = dict[str, Any]


# --- what is drawn -----------------------------------------------------------------------


def picture(size: int, alpha: int = 255) -> str:
    """A colourful square, the right half of it as opaque as `alpha`."""
    image = Image.radial_gradient("L").resize((size, size))
    image = Image.merge("RGBA", [image, image.rotate(90), image.rotate(180), image])
    opaque = Image.new("L", (size, size), 255)
    opaque.paste(alpha, (size // 2, 0, size, size))
    image.putalpha(opaque)
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


SQUARE, HALF = picture(128), picture(128, 0)
SMALL = picture(64)
TASKS: dict[str, Fields] = {
    "txt2img": {},
    "img2img": {"image": SMALL},
    "inpaint": {"image": SMALL, "mask_image": SMALL},
    "upscale": {"image": SMALL},
}
WAYS: dict[str, Fields] = {
    "default": {"num_inference_steps": None},
    "img2img": {"task": "img2img", "image": SQUARE},
    "inpaint": {"task": "inpaint", "image": SQUARE, "mask_image": SQUARE},
    "outpaint": {"task": "outpaint", "image": HALF},
    "lora": {"loras": [{"name": "outline"}]},
    "tiny-lora": {"model": "v1/sd1", "prompt": "a b <lora:tiny:0.5>", "width": 64, "height": 64},
    "embedding": {"prompt": "a red circle, nightstar"},
    "velocity": {"model": "v2/shapes-v"},
    "compel": {"prompt": "a (red)1.3 circle", "prompt_dialect": "compel"},
    "webui": {"prompt": "a [red:blue:0.5] (circle:1.2)", "prompt_dialect": "webui"},
    "preview": {"preview": True},
    "nsfw": {"model": "v1/sd1", "nsfw_filter": True, "width": 64, "height": 64},
    "tiling": {"memory_plan": "tiling"},
    "sequential": {"memory_plan": "sequential"},
    "offload": {"memory_plan": "offload"},
    "single-file": {"model": "v1/full.safetensors", "width": 64, "height": 64},
}


def requests() -> Iterator[tuple[str, Fields]]:
    yield from WAYS.items()
    for sampler in SCHEDULERS:
        yield f"sampler-{sampler}", {"sampler": sampler}
    for name in (row for row in ARCHS.values() if row.name != "segmind-vega"):
        task = "inpaint" if name.beside == "mask" else name.tasks[0]
        fields = {"task": task, "model": f"{name.version}/{name.name}", **TASKS[task]}
        yield f"arch-{name.name}", {**fields, "prompt": "a b c"}


def draw(client: Client, name: str, fields: Fields) -> bytes:
    asked = {"task": "txt2img", "prompt": PROMPT, "model": "v1/shapes", "seed": 7}
    asked |= {"id": name, "num_inference_steps": 4, **fields}
    asked = {key: value for key, value in asked.items() if value is not None}
    *_, last = client.generate(parse_task(asked))
    assert isinstance(last, Completed), f"{name}: {last}"
    return last.images[0].png


# --- a program ---------------------------------------------------------------------------


class Program:
    def __init__(self, command: Sequence[str], models: Path) -> None:
        self._command = command
        self.base = ("--model-base-path", str(models))
        names = KEPT if len(command) == 1 else (*KEPT, *INTERPRETERS)
        self._environment = {name: os.environ[name] for name in names if name in os.environ}

    def run(self, *words: str) -> str:
        """A command's output; it must succeed."""
        done = subprocess.run(
            [*self._command, *words],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self, *options: str) -> Iterator[int]:
        """A server that ends by itself when its client has left; its port."""
        words = [*self._command, "--timeout", "--port", "0", *options, *self.base]
        server = subprocess.Popen(words, env=self._environment, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            for line in server.stderr:
                if found := re.search(r"port (\d+)", line):
                    yield int(found[1])
                    break
            said = server.communicate(timeout=PATIENCE_S)[1]
        finally:
            server.kill()
        assert server.returncode == 0, f"the server ended with {server.returncode}: {said}"


def with_the_example_client(program: Program, out: Path) -> None:
    """The picture of the client to copy, or that of its seed."""
    path, seed = out / "client.png", out / "seed"
    if seed.exists():
        words = ("--seed", seed.read_text(), "--steps", "20", "--port", "1")  # nobody's
        program.run("generate", PROMPT, "-o", str(path), *words, *program.base)
        return
    client = [sys.executable, str(ROOT / "client_example" / "client.py"), PROMPT, str(path)]
    with program.serving() as port:
        said = subprocess.run(
            [*client, "localhost", str(port)], capture_output=True, text=True, timeout=PATIENCE_S
        )
    assert said.returncode == 0, said.stdout + said.stderr
    seed.write_text(re.findall(r"\(seed (\d+)\)", said.stdout)[0])


def with_every_request(program: Program, out: Path) -> None:
    with (
        program.serving("--nsfw-filter-missing", "error") as port,
        Client("127.0.0.1", port, timeout_s=PATIENCE_S) as client,
    ):
        listed = {model.name for model in client.models()}
        assert {"v1/shapes", "v2/shapes-v", "lora/outline"} <= listed, listed
        for name, fields in requests():
            (out / f"{name}.png").write_bytes(draw(client, name, fields))
        seen = program.run("status", "--json", "--port", str(port))
        assert json.loads(seen)["state"] == "ready", seen
        told = json.loads(program.run("models", "--json", "--port", str(port)))
        assert any(model["loaded"] for model in told["models"])


def with_conversions(program: Program, models: Path, out: Path) -> None:
    """The command, and a client's wish, for which the server starts itself as a child."""
    target = out / "tensors.safetensors"
    program.run("models", "convert", str(models / "tensors.ckpt"), str(target))
    with (
        program.serving("--allow-convert") as port,
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        asked = {"type": "convert", "id": "c", "model": "v1/full.safetensors", "form": "diffusers"}
        last = converse(connection, asked)
    assert last["type"] == "converted", last
    assert (models / "v1" / "full" / "model_index.json").is_file()


def converse(connection: socket.socket, message: Fields) -> Fields:
    """Send one message and return its last answer."""
    sys.path.insert(0, str(ROOT / "client_example"))
    import client as example

    example.send(connection, {"type": "hello"})
    example.send(connection, message)
    for answer in example.messages(connection):
        if answer.get("type") in ("converted", "failed"):
            return dict(answer)
    raise ConnectionError("the server closed the connection")


def main() -> None:
    own, command = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, command = own[:at], own[at + 1 :]
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(own)
    bring_loopback_up()
    program = Program(command, args.models)
    # without models of one's own the one that comes along draws
    with_the_example_client(Program(command, args.out), args.out)
    with_every_request(program, args.out)
    with_conversions(program, args.models, args.out)
    if len(command) == 1:  # multiprocessing starts its helpers so, and sys.executable is runai
        program.run("-S", "-B", "-I", "-c", HELPER)


if __name__ == "__main__":
    main()
