"""What a single-file checkpoint is, from the names and shapes of its tensors alone.

PURE: no weights are read and no torch is imported. A safetensors file starts with the
length of its header (8 bytes, little endian) and the header, a JSON object from tensor name
to dtype, shape and offsets (https://github.com/huggingface/safetensors, "Format"). Two names
in it say everything about the Stable Diffusion family: the UNet's first convolution
(channels in) and a cross-attention key projection (width of the text encoder).

What the header cannot tell, SD 2's kind of prediction, stays open here: `loading` asks the
file's metadata, then the network itself.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runai.errors import ModelBroken, ModelUnsupported

Shapes = Mapping[str, Sequence[int]]
MAX_HEADER_BYTES = 100 * 2**20
_UNET = "model.diffusion_model."
_FIRST = _UNET + "input_blocks.0.0.weight"
_KEYS = _UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_SDXL = "conditioner.embedders."
_LABELS = _UNET + "label_emb."  # SDXL and unCLIP
# (channels in, text width) -> arch
_FAMILY = {
    (4, 768): "sd1",
    (9, 768): "sd1-inpaint",
    (4, 1024): "sd2",
    (9, 1024): "sd2-inpaint",
}


def read_header(path: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    """The shapes by tensor name, and the metadata, of a safetensors file.

    Raises ModelBroken for anything that is not one, or is cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ModelBroken(f"{path.name} is not a safetensors file, or is cut short.")
        raw = file.read(length)
    try:
        header: dict[str, Any] = json.loads(raw)
        metadata = header.pop("__metadata__", {})
        shapes = {name: list(row["shape"]) for name, row in header.items()}
        end = max((row["data_offsets"][1] for row in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelBroken(f"{path.name} has a damaged safetensors header.") from None
    if 8 + length + end > size:
        raise ModelBroken(
            f"{path.name} is cut short: {size} of {8 + length + end} bytes are there."
        )
    return shapes, metadata


def arch_of(shapes: Shapes, name: str) -> str:
    """The arch (without the kind of prediction) of a checkpoint with these tensors.

    Raises ModelUnsupported, with the reason, for everything that cannot be drawn with.
    """
    if _FIRST not in shapes:
        raise ModelUnsupported(f"{name} is {_something_else(shapes)}, not a checkpoint.")
    foreign = any(key.startswith((_SDXL, _LABELS)) for key in shapes)
    if foreign or _KEYS not in shapes or min(len(shapes[_FIRST]), len(shapes[_KEYS])) < 2:
        raise ModelUnsupported(f"{name} is not of the Stable Diffusion 1 or 2 family.")
    channels, width = shapes[_FIRST][1], shapes[_KEYS][1]
    arch = _FAMILY.get((channels, width))
    if arch is None:
        raise ModelUnsupported(
            f"{name} has a UNet of {channels} channels and text of width {width}, "
            "which is none of the known architectures."
        )
    return arch


def prediction_in(metadata: Mapping[str, str]) -> str | None:
    """`epsilon` or `v_prediction` if the metadata says so (modelspec.prediction_type)."""
    said = str(metadata.get("modelspec.prediction_type", "")).lower()
    return {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}.get(said)


def _something_else(shapes: Shapes) -> str:
    keys = " ".join(list(shapes)[:200])
    for mark, what in (
        ("lora", "a LoRA"),
        ("hada_w1", "a LyCORIS"),
        ("control_model", "a ControlNet"),
        ("encoder.mid.block_1", "a VAE"),
        ("emb_params", "a textual inversion"),
    ):
        if mark in keys:
            return what
    return "something else"
