"""Writes the headers of every architecture's single file, without any weights.

    python tests/engine/headers/build.py

They are what detection is tested with: names, dtypes and shapes of a published checkpoint, made
from diffusers' public configurations (the rows of `ARCHS`) through empty networks and the
original's naming (`tests/ldm.py`). One gzipped JSON each: {name: [dtype, shape]}. Besides the
checkpoints: what people keep beside them, as its trainers write it.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2])]

import ldm  # noqa: E402
from accelerate import init_empty_weights  # noqa: E402
from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection  # noqa: E402

from runai.engine.archs import ARCHS, Arch, TextEncoding  # noqa: E402

Rows = dict[str, list[Any]]
UNET = "model.diffusion_model."
RANK = 8


def rows_of(weights: Mapping[str, Any], dtype: str = "F16") -> Rows:
    return {name: [dtype, list(tensor.shape)] for name, tensor in weights.items()}


def unet_rows(arch: Arch) -> Rows:
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(arch.unet)
    edges = (
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("class_embedding.weight", "label_emb.weight"),
    )
    rows = rows_of(ldm.unet_weights(unet))
    for ours, theirs in edges:
        rows = {name.replace(UNET + ours, UNET + theirs): row for name, row in rows.items()}
    return rows


def vae_rows(arch: Arch) -> Rows:
    with init_empty_weights():
        vae = AutoencoderKL.from_config(arch.vae)
    return rows_of(ldm.vae_weights(vae))


def text_rows(row: TextEncoding) -> Rows:
    """The body comes from `ldm`; its prefix and the projection are the arch's."""
    cls = CLIPTextModelWithProjection if row.pooled else CLIPTextModel
    with init_empty_weights():
        network = cls(CLIPTextConfig(**row.config))
    body = getattr(network, "text_model", network)
    weights = ldm.clip_weights(body) if row.kind == "clip" else ldm.open_clip_weights(body)
    made = "cond_stage_model.transformer." if row.kind == "clip" else "cond_stage_model.model."
    rows = {row.prefix + name.removeprefix(made): v for name, v in rows_of(weights).items()}
    if row.kind == "clip":
        rows[f"{row.prefix}text_model.embeddings.position_ids"] = ["I64", [1, 77]]
    if row.pooled:
        width = row.config["hidden_size"]
        rows[f"{row.prefix}text_projection"] = ["F16", [width, row.config["projection_dim"]]]
        rows[f"{row.prefix}logit_scale"] = ["F16", []]
    return rows


def checkpoint(arch: Arch) -> Rows:
    rows = {**unet_rows(arch), **vae_rows(arch)}
    for text in arch.texts:
        rows |= text_rows(text)
    return rows


def kohya(unet: Rows) -> Rows:
    """A LoRA of all attention layers, in the naming of kohya's scripts."""
    rows: Rows = {}
    for name, (_, shape) in unet.items():
        layer = re.fullmatch(
            r".*\.(\w+_blocks?\.[\d.]*transformer_blocks\..*to_(?:q|k|v|out\.0))\.weight", name
        )
        if layer:
            new = "lora_unet_" + layer[1].replace(".", "_")
            rows[f"{new}.alpha"] = ["F32", []]
            rows[f"{new}.lora_down.weight"] = ["F16", [RANK, shape[1]]]
            rows[f"{new}.lora_up.weight"] = ["F16", [shape[0], RANK]]
    return rows


def peft(lora: Rows) -> Rows:
    names = {"lora_down": "lora_A", "lora_up": "lora_B"}
    rows: Rows = {}
    for name, row in lora.items():
        layer, _, which = name.removesuffix(".weight").partition(".")
        if which in names:
            # only what lies behind the last underscore of a layer's path was its own
            rows[f"unet.{layer.removeprefix('lora_unet_')}.{names[which]}.weight"] = row
    return {name.replace("attn2_to_k", "attn2.to_k"): row for name, row in rows.items()}


def loha(lora: Rows) -> Rows:
    rows: Rows = {}
    for name, row in lora.items():
        layer, _, which = name.removesuffix(".weight").partition(".")
        for half in ("hada_w1", "hada_w2"):
            if which == "lora_down":
                rows[f"{layer}.{half}_b"] = row
            if which == "lora_up":
                rows[f"{layer}.{half}_a"] = row
    return rows


def beside(made: dict[str, Rows]) -> dict[str, Rows]:
    """What lies beside the models: LoRAs, VAEs, embeddings, ControlNets."""
    found: dict[str, Rows] = {}
    for arch in ("sd1", "sd2", "sdxl"):
        unet = {name: row for name, row in made[arch].items() if name.startswith(UNET)}
        found[f"lora-{arch}"] = kohya(unet)
        found[f"peft-{arch}"] = peft(found[f"lora-{arch}"])
        found[f"loha-{arch}"] = loha(found[f"lora-{arch}"])
    prefix = "first_stage_model."
    vae = {k.removeprefix(prefix): v for k, v in made["sd1"].items() if k.startswith(prefix)}
    unet = {k.removeprefix(UNET): v for k, v in made["sd1"].items() if k.startswith(UNET)}
    found["vae"] = vae
    found["unet"] = unet
    found["controlnet"] = {
        f"control_model.{k}": v for k, v in unet.items() if not k.startswith("out")
    }
    return found


def main() -> None:
    made = {name: checkpoint(arch) for name, arch in ARCHS.items() if name != "sd2-v"}
    for name, rows in {**made, **beside(made)}.items():
        raw = json.dumps(rows, separators=(",", ":")).encode()
        # no time in it: the same content is the same file
        (HERE / f"{name}.json.gz").write_bytes(gzip.compress(raw, 9, mtime=0))
        unet = sum(key.startswith(UNET) for key in rows)
        print(f"{name:14} {len(rows):5} tensors, {unet:5} of the UNet")  # noqa: T201


if __name__ == "__main__":
    main()
