"""Writes a checkpoint of the full size with random weights, in the original's naming.

    python benchmarks/full_size.py sd1 /tmp/full/v1/random.safetensors
    python benchmarks/full_size.py sdxl /tmp/full/v1/random-xl.safetensors [--dtype fp32]

Any arch of the table: Stable Diffusion 1.5 has 2.1 GB, SDXL 6.9 GB in fp16. The weights are
scaled so that numbers stay in range on their way through the network; the picture means
nothing. Tensor by tensor, so that little memory is needed. A `.ckpt` is written by torch, which
needs as much memory as the file is large.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from runai.engine.archs import ARCHS, Arch
from runai.engine.devices import DTYPES
from runai.engine.loading import names, networks

Shapes = dict[str, list[int]]
POOL = 1 << 22  # random numbers, of which every tensor takes its own stretch
FORMATS = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


def shapes_of(arch: Arch) -> Shapes:
    """Name and shape of every tensor in the arch's single file."""
    found: Shapes = {}
    for network, layout in _parts(arch):
        for name, tensor in network.state_dict().items():
            source = layout(name)
            shape = list(reversed(tensor.shape)) if source.transposed else list(tensor.shape)
            if source.third is not None:
                shape[0] *= 3
            if re.search(r"first_stage_model\..*attn_1\.(q|k|v|proj_out)\.weight", source.name):
                shape += [1, 1]  # a 1 × 1 convolution there
            found[source.name] = shape
    return found


def _parts(arch: Arch) -> Iterator[tuple[Any, names.Layout]]:
    unet, vae = networks.empty_unet(arch.unet), networks.empty_vae(arch.vae)
    yield unet, names.unet(unet.config)
    yield vae, names.vae(vae.config)
    for text in arch.texts:
        network = networks.empty_text_encoder(text.config, pooled=text.pooled)
        if text.kind == "open_clip":
            yield network, names.open_clip(text.prefix)
        else:
            yield network, names.clip(f"{text.prefix}text_model.")


def tensors(shapes: Shapes, dtype: torch.dtype, seed: int = 0) -> Iterator[torch.Tensor]:
    """The tensors, one at a time: norms leave as it is what they normalise, all else is random."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(POOL, generator=generator)
    for name, shape in shapes.items():
        count = math.prod(shape)
        if len(shape) == 1:
            tensor = torch.full(shape, 1.0 if name.endswith("weight") else 0.0)
        else:
            start = int(torch.randint(POOL, (1,), generator=generator))
            rolled = pool.roll(-start)
            scale = 0.7 / math.sqrt(count / shape[0])
            tensor = (rolled.repeat(count // POOL + 1)[:count] * scale).reshape(shape)
        yield tensor.to(dtype)


def write(path: Path, arch: Arch, dtype: torch.dtype) -> int:
    """Write the file; its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = shapes_of(arch)
    if path.suffix == ".ckpt":
        weights = dict(zip(shapes, tensors(shapes, dtype), strict=True))
        torch.save({"state_dict": weights, "global_step": 1}, path)
        return path.stat().st_size
    header, end = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        offsets = [end, end + size]
        header[name] = {"dtype": FORMATS[dtype], "shape": shape, "data_offsets": offsets}
        end += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for tensor in tensors(shapes, dtype):
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arch", choices=ARCHS)
    parser.add_argument("path", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="fp16")
    args = parser.parse_args()
    size = write(args.path, ARCHS[args.arch], DTYPES[args.dtype])
    print(f"{args.path}: {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
