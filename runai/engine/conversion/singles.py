"""Single files: a model out of one in the original's naming, and into one.

`layouts` of `loading.names` tell for each of diffusers' names where its tensor lies in such a
file. Reading asks them where to look, writing where to put: so there is one table for both
ways, and what is written is found again by construction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from runai.engine.archs import Arch, TextEncoding
from runai.engine.conversion import marks
from runai.engine.conversion.pieces import (
    CPU,
    Bytes,
    Model,
    Part,
    Piece,
    Pieces,
    part_of,
    size_of,
    text_names,
)
from runai.engine.detection import Finding
from runai.engine.devices import Place
from runai.engine.loading import names, networks, single
from runai.engine.loading.names import Layout
from runai.engine.loading.weights import DTYPES, Reader, Rows
from runai.engine.main_memory import available_memory
from runai.errors import ModelUnsupported, OutOfMemory

# what has more to it than a UNet, a VAE and text encoders
MORE_TO_IT = ("depth", "low_res")
# attention of the original's VAE is made of 1 × 1 convolutions
_VAE_ATTENTION = re.compile(r"first_stage_model\..*\.attn_1\.(q|k|v|proj_out)\.weight")
_CODES = {dtype: code for code, dtype in DTYPES.items()}
# https://github.com/Stability-AI/ModelSpec: the identifiers that it lists
_SPEC = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sd2-v": "stable-diffusion-v2-768-v",
    "sdxl": "stable-diffusion-xl-v1-base",
    "sdxl-refiner": "stable-diffusion-xl-v1-refiner",
}
Progress = Callable[[int], object]


# --- out of one --------------------------------------------------------------------------


def as_they_are(rows: Rows) -> Pieces:
    """All tensors under the names that they have."""
    return {name: Piece((stored,), stored.shape) for name, stored in rows.items()}


def check_convertible(arch: Arch) -> None:
    if arch.beside in MORE_TO_IT:
        raise ModelUnsupported(
            f"A model of the kind {arch.name} is more than its networks and cannot be converted.",
            hint="It is loaded as it is; between .ckpt and .safetensors it can be converted.",
        )


def read(
    rows: Rows,
    metadata: Mapping[str, str],
    arch: Arch,
    velocity: Arch | None,
    finding: Finding,
) -> Model:
    """The model in a checkpoint of the original's naming.

    `velocity`: the arch's v-prediction form, if it has one that looks the same and it is not
    known which of them this is. `finding`: what else is known of it.
    """
    if velocity is not None and _prediction(rows, metadata, arch) == "v_prediction":
        arch = velocity
    unet, vae = networks.empty_unet(single.unet_config(arch, rows)), networks.empty_vae(arch.vae)
    parts = {
        "unet": part_of(unet, unet.config, rows, names.unet_layouts(unet.config)),
        "vae": part_of(vae, vae.config, rows, names.vae_layouts(vae.config)),
    }
    for name, text in zip(text_names(arch), arch.texts, strict=True):
        network = networks.empty_text_encoder(text.config, pooled=text.pooled)
        layouts = names.text_layouts(text.kind, text.prefix)
        parts[name] = part_of(network, network.config.to_dict(), rows, layouts)
    return Model(arch, parts, finding, metadata)


def _prediction(rows: Rows, metadata: Mapping[str, str], arch: Arch) -> str:
    """What an SD 2 UNet predicts: asked of the metadata, else of the UNet itself."""
    unet = networks.empty_unet(single.unet_config(arch, rows))
    with Reader(Place(CPU, torch.float32)) as reader:
        filled = networks.fill(unet, rows, names.unet_layouts(unet.config), reader)
        return single.prediction(filled, dict(metadata), reader)


# --- into one ----------------------------------------------------------------------------


def arranged(model: Model) -> Pieces:
    """The tensors of a model under the original's names."""
    found: dict[str, Piece] = {}
    for part, layout in _layouts(model):
        found.update(_arranged(part.pieces, layout))
    source = next(iter(found.values())).parts[0].path
    return {**found, **marks.in_tensors(model.finding, model.arch, source)}


def _layouts(model: Model) -> Iterator[tuple[Part, Layout]]:
    yield model.parts["unet"], names.unet(model.parts["unet"].config)
    yield model.parts["vae"], names.vae(model.parts["vae"].config)
    for name, text in zip(text_names(model.arch), model.arch.texts, strict=True):
        yield model.parts[name], _text_layout(text)


def _text_layout(text: TextEncoding) -> Layout:
    if text.kind == "open_clip":
        return names.open_clip(text.prefix)
    return names.clip(f"{text.prefix}text_model.")


def _arranged(pieces: Pieces, layout: Layout) -> Iterator[tuple[str, Piece]]:
    thirds: dict[str, dict[int, Piece]] = {}
    for name, piece in pieces.items():
        source = layout(name)
        if source.third is not None:
            thirds.setdefault(source.name, {})[source.third] = piece
        else:
            yield source.name, _turned(piece, transposed=source.transposed, name=source.name)
    for name, three in thirds.items():
        yield name, _joined([three[i] for i in range(3)])


def _turned(piece: Piece, *, transposed: bool, name: str) -> Piece:
    shape = piece.shape
    if transposed:
        return Piece(piece.parts, shape[::-1], not piece.transposed)
    if _VAE_ATTENTION.fullmatch(name) and len(shape) == 2:
        shape = (*shape, 1, 1)
    return Piece(piece.parts, shape, piece.transposed)


def _joined(three: list[Piece]) -> Piece:
    rows = sum(piece.shape[0] for piece in three)
    parts = tuple(part for piece in three for part in piece.parts)
    return Piece(parts, (rows, *three[0].shape[1:]))


def described(model: Model, title: str) -> dict[str, str]:
    """The file's metadata: what the source said, and where it said nothing, what it is."""
    arch = model.arch
    said = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": title,
        "modelspec.resolution": f"{arch.size}x{arch.size}",
    }
    if arch.name in _SPEC:
        said["modelspec.architecture"] = _SPEC[arch.name]
    return marks.in_metadata(model.finding, {**said, **model.metadata})


# --- the two kinds of file ---------------------------------------------------------------


def write_safetensors(
    path: Path, pieces: Pieces, metadata: Mapping[str, str], progress: Progress
) -> None:
    """Tensor after tensor, so that only one is in memory; widest numbers first, as it is asked."""
    order = sorted(pieces, key=lambda name: (-pieces[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name in order:
        piece, start = pieces[name], end
        end += size_of(piece)
        shape, code = list(piece.shape), _CODES[piece.dtype]
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file, Bytes(pieces.values()) as source:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name in order:
            tensor = source.tensor(pieces[name])
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            progress(size_of(pieces[name]))


def check_memory(target: Path, total_bytes: int) -> None:
    """Raise OutOfMemory if there is no room for what `write_ckpt` holds at once."""
    free = available_memory()
    if total_bytes > free:
        raise OutOfMemory(
            f"Writing {target.name} takes {total_bytes / 1e9:.2f} GB of memory; {free / 1e9:.2f} "
            "GB are free.",
            hint="Make a .safetensors of it, which takes next to none, or close other programs.",
        )


def write_ckpt(path: Path, pieces: Pieces, progress: Progress) -> None:
    """All tensors at once, as torch's form wants them: it takes as much memory as the file."""
    tensors = {}
    with Bytes(pieces.values()) as source:
        for name, piece in pieces.items():
            tensors[name] = source.tensor(piece)
            progress(size_of(piece))
    torch.save({"state_dict": tensors}, path)
