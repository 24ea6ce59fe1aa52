"""What a LoRA or LyCORIS, and what an embedding, was made for.

PURE. The input width of a cross-attention's key projection is the width of the text encoder,
which tells the versions apart; what the trainer wrote comes second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from runai.engine.archs import ARCHS
from runai.engine.loras_roles import MARKS

Shapes = Mapping[str, Sequence[int]]
# width of the text that a UNet reads -> arch, and that of the last of its text encoders
WIDTHS: dict[int, str] = {}
_TEXT_WIDTHS: dict[int, str] = {}
for _arch in ARCHS.values():
    WIDTHS.setdefault(_arch.unet["cross_attention_dim"], _arch.name)
    _TEXT_WIDTHS.setdefault(_arch.texts[-1].config["hidden_size"], _arch.name)
# of an embedding: ten chunks of vectors, twice as wide as the widest text encoder read here
MAX_NUMBERS = 10 * 75 * 2560
# (metadata, how its value begins, arch)
_BASES = (
    ("ss_base_model_version", "sdxl", "sdxl"),
    ("ss_base_model_version", "sd_v2_v", "sd2-v"),
    ("ss_base_model_version", "sd_v2", "sd2"),
    ("ss_base_model_version", "sd_v1", "sd1"),
    ("modelspec.architecture", "stable-diffusion-xl", "sdxl"),
    ("modelspec.architecture", "stable-diffusion-v2-768-v", "sd2-v"),
    ("modelspec.architecture", "stable-diffusion-v2", "sd2"),
    ("modelspec.architecture", "stable-diffusion-v1", "sd1"),
)
# endings of the factor that reads a layer's input: its last dimension is the layer's
_READS = (
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora.down.weight",
    ".down.weight",
    ".hada_w1_b",
    ".diff",
)
_TEXT_KEYS = ("attn2_to_k", "attn2.to_k", "attn2.processor.to_k_lora")
_OWN_KEYS = ("self_attn_k_proj", "self_attn_q_proj", "self_attn.k_proj", "self_attn.q_proj")
_SECOND_TEXT = ("lora_te2_", "text_encoder_2.", "lycoris_te2_")
_XL_ONLY = ("transformer_blocks_1_", "transformer_blocks.1.")


def is_lora(names: str) -> bool:
    """`names`: all, each between two ends of lines."""
    return any(f"{mark}\n" in names for mark in MARKS)


def base_of_lora(shapes: Shapes, names: str, metadata: Mapping[str, str]) -> str:
    """The arch a LoRA is for, or empty if nothing tells."""
    width = _input_width(shapes, _TEXT_KEYS)
    if width in WIDTHS:
        arch = WIDTHS[width]
    elif any(mark in names for mark in (*_SECOND_TEXT, *_XL_ONLY)):
        arch = "sdxl"
    else:
        arch = _TEXT_WIDTHS.get(_input_width(shapes, _OWN_KEYS), "")
    said = base_in(metadata)
    # the shapes cannot tell the two kinds of SD 2 apart
    return said if not arch or (arch == "sd2" and said == "sd2-v") else arch


def base_in(metadata: Mapping[str, str]) -> str:
    """The arch that a trainer wrote down, or empty."""
    for key, start, arch in _BASES:
        if metadata.get(key, "").lower().startswith(start):
            return arch
    return ""


def _input_width(shapes: Shapes, layers: Sequence[str]) -> int:
    """How wide the input of such layers is, from the first of them; 0 if there is none."""
    for name, shape in shapes.items():
        if any(layer in name for layer in layers):
            if name.endswith(_READS) and len(shape) >= 2:
                return shape[1]
            if name.endswith((".lokr_w2", ".lokr_w2_b")) and len(shape) >= 2:
                return _of_kronecker(shapes, name, shape[1])
    return 0


def _of_kronecker(shapes: Shapes, second: str, width: int) -> int:
    """LoKr multiplies a small matrix into a large one: their widths multiply as well."""
    layer = second.rsplit(".", 1)[0]
    first = shapes.get(f"{layer}.lokr_w1") or shapes.get(f"{layer}.lokr_w1_b") or [0, 0]
    return width * first[1] if len(first) == 2 else 0


def base_of_embedding(shapes: Shapes) -> str | None:
    """The arch an embedding is for, empty if no known one is that wide; None: it is none."""
    rows = {name: list(shape) for name, shape in shapes.items()}
    if not rows or any(not 1 <= len(shape) <= 2 for shape in rows.values()):
        return None
    if sum(map(math.prod, rows.values())) > MAX_NUMBERS:
        return None
    if rows.keys() == {"clip_l", "clip_g"}:
        return "sdxl"
    widths = {shape[-1] for shape in rows.values()}
    said = all(name == "emb_params" or (name[0] + name[-1]) == "<>" for name in rows if name)
    if len(widths) > 1 or not (said or (len(rows) == 1 and widths & WIDTHS.keys())):
        return None
    return _TEXT_WIDTHS.get(widths.pop(), "")
