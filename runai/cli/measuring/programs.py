"""The programs of the benchmarks folder, which of them this machine can run, and running one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil

import runai
from runai.cli import program
from runai.errors import DependencyMissing
from runai.schema.units import bytes_text

FOLDER = "benchmarks"
GB = 1_000_000_000
SMALL, FULL = 2 * GB, 7 * GB  # torch with the example model; with a UNet of full size besides
Json = dict[str, Any]


@dataclass(frozen=True)
class Program:
    """`words`: its file and arguments. `memory_bytes`: what has to be free. `gpu`: whether it is
    for a GPU of NVIDIA's.
    """

    what: str
    words: tuple[str, ...]
    memory_bytes: int = SMALL
    linux: bool = False
    gpu: bool = False

    def obstacle(self) -> str:
        """Why it cannot run here; empty where it can."""
        if self.linux and sys.platform != "linux":
            return "needs Linux"
        if self.gpu and not _has_gpu():
            return "needs a GPU of NVIDIA's, and a torch for it"
        free = psutil.virtual_memory().available
        if free < self.memory_bytes:
            return f"needs {bytes_text(self.memory_bytes)} of memory, {bytes_text(free)} are free"
        return ""


@cache
def _has_gpu() -> bool:
    """Whether torch can use one; it is asked in a process of its own."""
    if shutil.which("nvidia-smi") is None:
        return False
    asked = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0  # noqa: S603


def _full(*words: str) -> tuple[str, ...]:
    return (*words[:1], "--full", "--size", "256", *words[1:])


def _on_gpu(*words: str) -> tuple[str, ...]:
    return (*words[:1], "--full", "--size", "512", *words[1:])


PROGRAMS: dict[str, Program] = {
    "start": Program("from exec to listening, and to the first picture", ("start.py",)),
    "step": Program("a step, against a loop written by hand", ("step_cost.py",)),
    "wire": Program("packets and pictures in JSON, in memory and over loopback", ("wire.py",)),
    "prompts": Program("a prompt that is known, against encoding it", ("prompt_cache.py",)),
    "loras": Program("steps with LoRAs, and changing sets", ("lora_switch.py",)),
    "models": Program("changing to a model in memory", ("model_switch.py",)),
    "clients": Program(
        "throughput and latency by the number of clients", ("clients.py", "--steps", "10")
    ),
    "mixed": Program("a short request behind a long one", ("mixed_load.py",)),
    "flood": Program("one request beside a flood of another client's", ("flood.py",)),
    "cancel": Program("from a cancel to another client's first step", ("cancel.py",)),
    "waiting": Program("memory of clients that wait", ("waiting_memory.py",), linux=True),
    "writing": Program("pictures written beside the next steps, or in turn", ("writing.py",)),
    "shortcuts": Program(
        "what fewer operations gain and cost", ("shortcuts.py", "--pictures", "32")
    ),
    "shortcuts-full": Program(
        "the same as shortcuts, of Stable Diffusion 1.5's size",
        ("shortcuts.py", "--full", "--steps", "10", "--rounds", "1"),
        FULL,
    ),
    "backends": Program(
        "OpenVINO against torch, of Stable Diffusion 1.5's size",
        ("backends.py", "--rounds", "3"),
        FULL,
    ),
    "step-full": Program(
        "the same as step, of Stable Diffusion 1.5's size",
        ("step_cost.py", "--arch", "sd1", "--size", "256", "--steps", "4", "--rounds", "3"),
        FULL,
    ),
    "clients-full": Program(
        "the same as clients, of that size",
        _full("clients.py", "--steps", "4", "--most", "4", "--rounds", "2"),
        FULL,
    ),
    "mixed-full": Program(
        "the same as mixed, of that size",
        _full("mixed_load.py", "--long", "30", "--rounds", "2"),
        FULL,
    ),
    "cancel-full": Program(
        "the same as cancel, of that size", _full("cancel.py", "--rounds", "5"), FULL
    ),
    "utilisation": Program(
        "a UNet call of full size, against what the device can multiply",
        ("utilisation.py", "--rounds", "3"),
        FULL,
    ),
    "layouts-gpu": Program(
        "a UNet call laid out otherwise, on a GPU", ("layouts.py", "--size", "512"), gpu=True
    ),
    "clients-gpu": Program(
        "the same as clients-full, on a GPU",
        _on_gpu("clients.py", "--steps", "20", "--rounds", "3"),
        gpu=True,
    ),
    "one-gpu": Program(
        "one client, against diffusers' pipeline, on a GPU",
        _on_gpu("clients.py", "--steps", "50", "--most", "1", "--rounds", "5"),
        gpu=True,
    ),
    "compiled-gpu": Program(
        "one client, against diffusers' pipeline with a compiled UNet, on a GPU",
        _on_gpu("clients.py", "--compiled", "--steps", "50", "--most", "1", "--rounds", "5"),
        gpu=True,
    ),
    "mixed-gpu": Program(
        "the same as mixed-full, on a GPU", _on_gpu("mixed_load.py", "--rounds", "5"), gpu=True
    ),
    "cancel-gpu": Program("the same as cancel-full, on a GPU", _on_gpu("cancel.py"), gpu=True),
}


@dataclass
class Results:
    """What a program has said. `lines`: to read, each with its figures. `plots`: to be drawn."""

    code: int = 0
    lines: list[tuple[str, Json]] = field(default_factory=list)
    plots: list[Json] = field(default_factory=list)

    @classmethod
    def of(cls, lines: Iterator[str], show: Callable[[str], None]) -> Results:
        """Of what is printed; what is there to read is shown as it comes."""
        found, text = cls(), ""
        for line in lines:
            said = _json(line)
            if said is None:
                text = line
                show(line)
            elif "plot" in said:
                found.plots.append(said)
            else:
                found.lines.append((text, said))
        return found


def folder() -> Path:
    """Where the programs are: in the package, or beside it (a checkout). Raises
    DependencyMissing where there is no Python to run them.
    """
    package = Path(runai.__file__).resolve().parent
    homes = () if program.is_packed() else (package / FOLDER, package.parent / FOLDER)
    found = next((home for home in homes if home.is_dir()), None)
    if found is None:
        raise DependencyMissing(
            "The benchmarks are programs in Python, which are not here.",
            hint="Run it from a checkout, or install the package with pip.",
        )
    return found


def run(chosen: Program, home: Path, show: Callable[[str], None]) -> Results:
    """Run a program to its end."""
    file, *words = chosen.words
    parts = (str(Path(runai.__file__).parents[1]), os.environ.get("PYTHONPATH", ""))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, parts))}
    command = [sys.executable, "-u", "-B", str(home / file), *words]
    with subprocess.Popen(  # noqa: S603 (a program of ours)
        command, stdout=subprocess.PIPE, encoding="utf-8", errors="replace", env=environ
    ) as child:
        assert child.stdout is not None  # noqa: S101 (for mypy: it is a pipe)
        found = Results.of((line.rstrip("\n") for line in child.stdout), show)
    found.code = child.returncode
    return found


def _json(line: str) -> Json | None:
    if not line.startswith("{"):
        return None
    try:
        said: Json = json.loads(line)
    except ValueError:
        return None
    return said
