"""Diffusers folders: every part with its own configuration and its own files of weights.

A part's weights are one file or several with an index of which tensor is in which
("shards"); plain ones go before their fp16 variant, safetensors before pickles. Tokenizer and
scheduler come from the folder too. What the engine has no use for (the pipeline's own safety
checker, image encoders) is not read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import PNDMScheduler

from runai.engine import vocabulary
from runai.engine.archs import Arch, Config, TextEncoding
from runai.engine.loading import names, networks
from runai.engine.loading.weights import Reader, Rows, read_index
from runai.engine.model import DepthEstimator, TextEncoder
from runai.engine.weight_names import HALF, WEIGHTS
from runai.errors import ModelBroken, ModelUnsupported

_PROCESSOR = "preprocessor_config.json"


def read(path: Path, arch: Arch, reader: Reader) -> dict[str, Any]:
    """The parts of a whole model."""
    parts = {
        "unet": read_unet(path / "unet", reader),
        "vae": read_vae(path / "vae", reader),
        "texts": tuple(_text(path, row, reader) for row in arch.texts),
        "scheduler": _scheduler(path / "scheduler"),
    }
    if arch.beside == "depth":
        parts["depth"] = read_depth(path / "depth_estimator", path / "feature_extractor", reader)
    return parts


def read_unet(folder: Path, reader: Reader) -> Any:
    network = networks.empty_unet(config_of(folder))
    return networks.fill(network, weights_of(folder), [names.plain()], reader)


def read_vae(folder: Path, reader: Reader) -> Any:
    network = networks.empty_vae(config_of(folder))
    return networks.fill(network, weights_of(folder), [names.plain(), names.old_vae()], reader)


def read_depth(network: Path, images: Path, reader: Reader) -> DepthEstimator | None:
    """The depth estimator in two folders, which may be the same one; None if it is not there."""
    if not (network / "config.json").is_file():
        return None
    if not (images / _PROCESSOR).is_file():  # whatever is no folder would be asked of the hub
        raise ModelBroken(f"{network.name} comes without {images.name}/{_PROCESSOR}.")
    # only depth models need these: they are slow to import
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessorPil

    empty = networks.empty(DPTForDepthEstimation, DPTConfig.from_dict(config_of(network)))
    filled = networks.fill(empty, weights_of(network), [names.plain()], reader)
    processor = DPTImageProcessorPil.from_pretrained(images, local_files_only=True)
    return DepthEstimator(filled, processor)


def config_of(folder: Path) -> Config:
    """A part's configuration. ModelBroken if there is none."""
    try:
        config: Config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise ModelBroken(f"{folder.parent.name} has no {folder.name}/config.json.") from None
    return config


def weights_of(folder: Path) -> Rows:
    """Where the tensors of a part are."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return read_index(folder / name)[0]
        for index in _indexes(folder, name):
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            return _merged([folder / Path(file).name for file in files])
    raise ModelBroken(f"{folder.parent.name}/{folder.name} holds no weights.")


def _indexes(folder: Path, name: str) -> list[Path]:
    """The index of shards that stand for a file of weights, if there is one."""
    variant = HALF if f"{HALF}." in name else ""
    plain = name.replace(f"{HALF}.", ".")
    candidates = [folder / f"{plain}.index{variant}.json", folder / f"{name}.index.json"]
    return [path for path in candidates if path.is_file()]


def _merged(files: list[Path]) -> Rows:
    rows: Rows = {}
    for file in files:
        rows.update(read_index(file)[0])
    return rows


def _text(path: Path, row: TextEncoding, reader: Reader) -> TextEncoder:
    # the one whose pooled embedding is read is always the second, even without a first
    second = "_2" if row.pooled else ""
    folder = path / f"text_encoder{second}"
    config = config_of(folder)
    if config.get("model_type", "clip_text_model") not in ("clip_text_model", "clip"):
        raise ModelUnsupported(f"Its text encoder is a {config['model_type']}, not CLIP.")
    empty = networks.empty_text_encoder(config, pooled=row.pooled)
    layouts = [*names.text_layouts("clip", ""), names.plain()]
    network = networks.fill(empty, weights_of(folder), layouts, reader)
    tokenizer = vocabulary.read(path / f"tokenizer{second}")
    if len(tokenizer) > network.config.vocab_size:
        raise ModelBroken("Its tokenizer and text encoder do not belong together.")
    return TextEncoder(tokenizer, network, row.layer, row.pooled)


def _scheduler(folder: Path) -> Config:
    config: Config = PNDMScheduler.load_config(folder, local_files_only=True)
    # what diffusers' pipelines make of any configuration that says or implies otherwise
    return {**config, "clip_sample": False, "steps_offset": 1}
