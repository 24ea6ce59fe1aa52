"""Time and memory to load a checkpoint, against what reading and converting it alone cost.

    python benchmarks/load.py CHECKPOINT --vocabulary FOLDER [--dtype bf16] [--rounds 5]
    python benchmarks/load.py CHECKPOINT --vocabulary FOLDER --draw

CHECKPOINT: a single file (`full_size.py` writes one). FOLDER: a base path with the CLIP
vocabulary. The floor is a plain loop over the same tensors with the safetensors library, each
converted into a fresh tensor. Peak memory is measured in a process of its own, beyond what it
had after its imports, against the bytes of the weights in their final format. With --draw one
picture of 256 × 256 is drawn in two steps instead.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from side_by_side import compare

from runai.engine import detection
from runai.engine.catalogue import Entry
from runai.engine.devices import Place, choose
from runai.engine.loading import load
from runai.engine.loading.weights import read_index
from runai.engine.model import LoadedModel
from runai.schema.late import made


def entry_of(path: Path) -> Entry:
    format_: Any = "ckpt" if path.suffix == ".ckpt" else "safetensors"
    found = detection.identify(path)
    version: Any = {"sd1": "v1", "sd2": "v2"}.get(found.arch[:3], "xl")
    return Entry(path.stem, version, format_, path, arch=found.arch)


def ours(path: Path, place: Place, vocabulary: Path) -> float:
    gc.collect()
    began = time.perf_counter()
    model = load(entry_of(path), place, [vocabulary])
    _synchronise(place)
    took = time.perf_counter() - began
    del model
    return took


def floor(path: Path, place: Place) -> float:
    """Reading and converting, and nothing else."""
    gc.collect()
    began = time.perf_counter()
    if path.suffix == ".ckpt":
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        stored = content["state_dict"]
        kept = [t.to(place.device, place.dtype, copy=True) for t in stored.values()]
        del stored, content
    else:
        with safe_open(path, "pt") as file:
            kept = [
                file.get_tensor(n).to(place.device, place.dtype, copy=True)
                for n in file.keys()  # noqa: SIM118 - no dict
            ]
    _synchronise(place)
    took = time.perf_counter() - began
    del kept
    return took


def _synchronise(place: Place) -> None:
    if place.device.type == "cuda":
        torch.cuda.synchronize()


def tensors_of(model: LoadedModel) -> list[torch.Tensor]:
    parts = [model.unet, model.vae, *(text.network for text in model.texts)]
    return [tensor for part in parts for tensor in part.state_dict().values()]


def memory(path: Path, place: Place, vocabulary: Path) -> dict[str, float]:
    """In GB: the weights as they stay, and the peak while loading, beyond what was there before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    model = load(entry_of(path), place, [vocabulary])
    weights = sum(tensor.nbytes for tensor in tensors_of(model))
    return {"weights": weights / 1e9, "peak": (_status("VmHWM") - before) / 1e9}


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def draw(path: Path, place: Place, vocabulary: Path) -> None:
    """One small picture, through the whole engine."""
    from runai.engine.engine import TorchEngine
    from runai.schema.requests import TextToImage

    began = time.perf_counter()
    engine = TorchEngine([path.parent.parent, vocabulary], dtype=_name(place.dtype))
    request = TextToImage(
        id="b",
        model=path.stem,
        prompt="a photo of a cat",
        width=256,
        height=256,
        num_inference_steps=2,
        seed=1,
    )
    engine.admit("b", request)
    loaded = time.perf_counter()
    events: list[Any] = []
    while engine.is_busy():
        events += [made(event) for _, event in engine.step()]
    done = time.perf_counter()
    png = Path(tempfile.mkdtemp(), "full-size.png")
    png.write_bytes(events[-1].images[0].png)
    print(f"loaded in {loaded - began:.1f} s, drawn in {done - loaded:.1f} s: {png}")
    print(f"peak {_status('VmHWM') / 1e9:.2f} GB in all")


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="only measure memory, here")
    parser.add_argument("--draw", action="store_true")
    args = parser.parse_args()
    place = choose(args.device, args.dtype)
    if args.draw:
        draw(args.checkpoint, place, args.vocabulary)
    elif args.memory:
        print(json.dumps(memory(args.checkpoint, place, args.vocabulary)))
    else:
        measure(args, place)


def measure(args: argparse.Namespace, place: Place) -> None:
    said = subprocess.run(
        [sys.executable, *sys.argv, "--memory"], check=True, capture_output=True, text=True
    ).stdout
    held = json.loads(said.splitlines()[-1])
    print(
        f"peak while loading {held['peak']:.3f} GB, weights {held['weights']:.3f} GB: "
        f"{held['peak'] / held['weights']:.2f} ×"
    )
    count = len(read_index(args.checkpoint)[0])
    compare(
        f"load {args.checkpoint.name} ({count} tensors) as {_name(place.dtype)} on {place.device}",
        lambda: ours(args.checkpoint, place, args.vocabulary),
        lambda: floor(args.checkpoint, place),
        rounds=args.rounds,
    ).show()


if __name__ == "__main__":
    main()
