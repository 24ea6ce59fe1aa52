"""A checkpoint's kind is read off its header; what is no checkpoint is refused with a reason."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from runai.engine import detection
from runai.errors import ModelBroken, ModelUnsupported

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
KEYS = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def header(path: Path, rows: dict[str, list[int]], *, weights: int = 8) -> Path:
    """A safetensors file with a header for `rows` of 8 bytes in all, and `weights` bytes."""
    table = {
        name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 8]}
        for name, shape in rows.items()
    }
    raw = json.dumps({"__metadata__": {"a": "b"}, **table}).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(weights))
    return path


@pytest.mark.parametrize(
    ("channels", "width", "arch"),
    [(4, 768, "sd1"), (9, 768, "sd1-inpaint"), (4, 1024, "sd2"), (9, 1024, "sd2-inpaint")],
)
def test_channels_and_text_width_tell_the_arch(
    tmp_path: Path, channels: int, width: int, arch: str
) -> None:
    rows = {FIRST: [320, channels, 3, 3], KEYS: [320, width]}
    shapes, metadata = detection.read_header(header(tmp_path / "m.safetensors", rows))
    assert detection.arch_of(shapes, "m") == arch
    assert metadata == {"a": "b"}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({"lora_unet_x.lora_down.weight": [4, 320]}, "a LoRA"),
        ({"encoder.mid.block_1.conv1.weight": [1]}, "a VAE"),
        ({"control_model.zero_convs.0.0.weight": [1]}, "a ControlNet"),
        ({"emb_params": [1, 768]}, "a textual inversion"),
        ({"anything": [1]}, "something else"),
        ({FIRST: [320, 4, 3, 3], KEYS: [320, 2048], "conditioner.embedders.0.x": [1]}, "family"),
        ({FIRST: [320, 8, 3, 3], KEYS: [320, 768]}, "8 channels"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_the_reason(
    rows: dict[str, list[int]], reason: str
) -> None:
    with pytest.raises(ModelUnsupported, match=reason):
        detection.arch_of(rows, "m")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b'{"a": {}}',
    ],
)
def test_bytes_that_are_no_safetensors_file_are_broken(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelBroken, match=r"m\.safetensors"):
        detection.read_header(path)


def test_a_file_that_is_cut_short_is_broken(tmp_path: Path) -> None:
    path = header(tmp_path / "m.safetensors", {FIRST: [1]}, weights=7)
    with pytest.raises(ModelBroken, match="cut short"):
        detection.read_header(path)


@pytest.mark.parametrize(
    ("said", "means"), [("v", "v_prediction"), ("epsilon", "epsilon"), ("", None), ("x", None)]
)
def test_metadata_may_name_the_prediction(said: str, means: str | None) -> None:
    assert detection.prediction_in({"modelspec.prediction_type": said}) == means
