"""What LoRAs cost: a step with one, and changing from one set to another.

    python benchmarks/lora_switch.py [--full] [--size 256] [--rounds 9]

A UNet call with a LoRA of rank 16 on all attention layers and ResNets against the same call
without; with three of them; and a call that changes the set against one that does not. Then
changing sets against what a server without sets does, which is to load the model again. Same
model, dtype and size, taking turns. Without --full the example model is used; with it a Stable
Diffusion 1.5 UNet with random weights (860 million parameters), which is not loaded again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from example import FOLDER, example_model
from safetensors.torch import save_file
from side_by_side import compare

from runai.engine.catalogue import Catalogue
from runai.engine.loading import load
from runai.engine.loras import LoraSet, LoraShelf
from runai.engine.model import LoadedModel
from runai.schema.requests import Lora

RANK = 16


def write_loras(model: LoadedModel, folder: Path, count: int) -> list[str]:
    """Files of random numbers for all layers in the UNet's blocks; their names."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    layers = {n: m for n, m in model.unet.named_modules() if isinstance(m, kinds) and "block" in n}
    for number in range(count):
        tensors: dict[str, torch.Tensor] = {}
        for name, layer in layers.items():
            shape, stem = layer.weight.shape, f"lora_unet_{name.replace('.', '_')}"
            tensors[f"{stem}.lora_down.weight"] = torch.randn(RANK, *shape[1:])
            up = 0.01 * torch.randn(shape[0], RANK, *(1,) * (len(shape) - 2))
            tensors[f"{stem}.lora_up.weight"] = up
        save_file(tensors, folder / f"bench{number}.safetensors")
    return [f"bench{number}" for number in range(count)]


class Calls:
    """UNet calls of two rows, as a guided picture makes them."""

    def __init__(self, model: LoadedModel, shelf: LoraShelf, side: int) -> None:
        self.model, self.shelf = model, shelf
        width = model.unet.config.cross_attention_dim
        self.latents = torch.randn(2, 4, side, side).to(model.device, model.dtype)
        self.words = torch.randn(2, 77, width).to(model.device, model.dtype)

    @torch.inference_mode()
    def timed(self, *sets: LoraSet) -> float:
        """Seconds of one call with each of these sets in turn, a call."""
        began = time.perf_counter()
        for loras in sets:
            self.shelf.activate(self.model, loras)
            self.model.unet(self.latents, 500, self.words)
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / len(sets)

    def switching(self, *sets: LoraSet) -> float:
        """Seconds of putting one of these sets in force, without any call."""
        began = time.perf_counter()
        for loras in sets:
            self.shelf.activate(self.model, loras)
        return (time.perf_counter() - began) / len(sets)


def reloading(model: LoadedModel) -> float:
    began = time.perf_counter()
    load(model.entry, model.place, [FOLDER])
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--size", type=int)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    model = example_model(full=args.full)
    side = (args.size or model.size) // 8
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "lora").mkdir()
        names = write_loras(model, base / "lora", 3)
        shelf = LoraShelf(Catalogue([base]))
        one, other, third = (shelf.prepare(model, [Lora(name=name)]) for name in names)
        calls = Calls(model, shelf, side)
        show = _shower(model, side, args)
        show("a step with one LoRA", lambda: calls.timed(one), lambda: calls.timed(()))
        three = one + other + third
        show("a step with three LoRAs", lambda: calls.timed(three), lambda: calls.timed(()))
        pairs = (one, other) * 4
        show(
            "a step after another set",
            lambda: calls.timed(*pairs),
            lambda: calls.timed(*(one,) * 4, *(other,) * 4),
        )
        if not args.full:
            show("another set", lambda: calls.switching(*pairs), lambda: reloading(model))
        print(f"changing sets takes {1000 * calls.switching(*pairs):.2f} ms")


def _shower(model: LoadedModel, side: int, args: Any) -> Callable[..., None]:
    where = f"{8 * side}², {model.dtype}, {'SD 1.5' if args.full else 'example'}"

    def show(name: str, ours: Callable[[], float], theirs: Callable[[], float]) -> None:
        compare(f"{name} ({where})", ours, theirs, rounds=args.rounds).show()

    return show


if __name__ == "__main__":
    main()
