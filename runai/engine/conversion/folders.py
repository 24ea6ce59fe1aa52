"""Diffusers folders: a model out of one, and into one.

What a folder needs beside the weights is written from the arch's row: `model_index.json`,
the networks' and the scheduler's configurations, and the vocabulary. Text encoders are
written under the names with `text_model.` in front, which every version of transformers reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers

from runai.engine import vocabulary
from runai.engine.archs import Arch, TextEncoding
from runai.engine.conversion import marks
from runai.engine.conversion.pieces import Model, Part, Pieces, part_of, text_names
from runai.engine.detection import Finding
from runai.engine.loading import names, networks, single
from runai.engine.loading.folders import config_of, weights_of
from runai.engine.loading.weights import Rows, read_index
from runai.engine.weight_names import STEMS
from runai.errors import ModelUnsupported

INDEX = "model_index.json"
_NETWORK, _TEXT = STEMS["safetensors"]
WEIGHTS = {"unet": _NETWORK, "vae": _NETWORK}
_SD = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
# what beside the latents its UNet reads -> the pipelines of the two families
PIPELINES = {
    "nothing": _SD,
    "mask": ("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"),
    "picture": (
        "StableDiffusionInstructPix2PixPipeline",
        "StableDiffusionXLInstructPix2PixPipeline",
    ),
}
REFINER = "StableDiffusionXLImg2ImgPipeline"


# --- out of one --------------------------------------------------------------------------


def read(folder: Path, arch: Arch, finding: Finding) -> Model:
    """The model in a folder. Raises ModelUnsupported if a single file could not stand for it."""
    finding = _with_schedule(folder, arch, finding)
    rows = {name: weights_of(folder / name) for name in ("unet", "vae")}
    unet = networks.empty_unet(config_of(folder / "unet"))
    vae = networks.empty_vae(config_of(folder / "vae"))
    parts = {
        "unet": part_of(unet, unet.config, rows["unet"], names.unet_layouts(unet.config)),
        "vae": part_of(vae, vae.config, rows["vae"], names.vae_layouts(vae.config)),
    }
    for name, text in zip(text_names(arch), arch.texts, strict=True):
        parts[name] = _text_part(folder / name, text)
    for name, network in _published(arch, unet.config["time_cond_proj_dim"]):
        _check_like(parts[name], network, folder, arch)
    return Model(arch, parts, finding, _metadata(rows["unet"]))


def _published(arch: Arch, told: int | None) -> Iterator[tuple[str, Any]]:
    """Empty networks as the arch's row says they are, the UNet `told` its guidance or not."""
    yield "unet", networks.empty_unet({**arch.unet, "time_cond_proj_dim": told})
    yield "vae", networks.empty_vae(arch.vae)
    for name, text in zip(text_names(arch), arch.texts, strict=True):
        yield name, networks.empty_text_encoder(text.config, pooled=text.pooled)


def _check_like(part: Part, network: Any, folder: Path, arch: Arch) -> None:
    """A single file holds no configuration: it can only stand for what the arch's row says."""
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if wanted != {name: piece.shape for name, piece in part.pieces.items()}:
        raise ModelUnsupported(
            f"{folder.name} is a {arch.name} of other sizes than the published one: a single "
            "file, which holds no sizes, could not be read again."
        )


def _text_part(folder: Path, text: TextEncoding) -> Part:
    config = config_of(folder)
    network = networks.empty_text_encoder(config, pooled=text.pooled)
    layouts = [*names.text_layouts("clip", ""), names.plain()]
    return part_of(network, config, weights_of(folder), layouts)


def _with_schedule(folder: Path, arch: Arch, finding: Finding) -> Finding:
    """What is known of the model, and what its scheduler's configuration says."""
    path = folder / "scheduler" / "scheduler_config.json"
    said = json.loads(path.read_text("utf-8"))
    predicted = said.get("prediction_type", "epsilon")
    zero_snr = bool(said.get("rescale_betas_zero_snr"))
    found = replace(finding, prediction=predicted, zero_snr=zero_snr)
    marks.check_schedule(said, found, arch)
    return found


def _metadata(rows: Rows) -> dict[str, str]:
    """What the file of the UNet says about itself, beside that it is of torch."""
    said = read_index(next(iter(rows.values())).path)[1]
    return {name: value for name, value in said.items() if name != "format"}


# --- into one ----------------------------------------------------------------------------


def arranged(model: Model) -> dict[str, Pieces]:
    """The files of weights of a folder."""
    files = {}
    for name, part in model.parts.items():
        is_text = name not in WEIGHTS
        pieces = {_text_name(n): p for n, p in part.pieces.items()} if is_text else part.pieces
        files[f"{name}/{WEIGHTS.get(name, _TEXT)}.safetensors"] = pieces
    return files


def _text_name(name: str) -> str:
    outer = ("text_model.", "text_projection.")
    return name if name.startswith(outer) else f"text_model.{name}"


def texts_of(model: Model, base_paths: Sequence[Path]) -> dict[str, str]:
    """The folder's small files. Raises VocabularyMissing if there is no vocabulary for it."""
    texts = {INDEX: _index(model)}
    for name, part in model.parts.items():
        said = {"_class_name": _class(name, model)[1], **_versioned(part.config)}
        texts[f"{name}/config.json"] = _json(said if name in WEIGHTS else _of_text(name, part))
    texts["scheduler/scheduler_config.json"] = _json(scheduler_of(model))
    for name, text in zip(text_names(model.arch), model.arch.texts, strict=True):
        folder = name.replace("text_encoder", "tokenizer")
        found = vocabulary.find(base_paths, text.padding, text.config["vocab_size"])
        texts.update((f"{folder}/{file}", content) for file, content in _tokenizer(found))
    return texts


def scheduler_of(model: Model) -> dict[str, Any]:
    """The scheduler's configuration: what the file is loaded with."""
    config = {**model.arch.scheduler, **single.trained_for(model.finding)}
    return {"_class_name": _class("scheduler", model)[1], **_versioned(config)}


def _versioned(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"_diffusers_version": diffusers.__version__, **config}


def _of_text(name: str, part: Part) -> dict[str, Any]:
    return {**part.config, "architectures": [_text_class(name)]}


def _text_class(name: str) -> str:
    return "CLIPTextModelWithProjection" if name.endswith("_2") else "CLIPTextModel"


def _class(name: str, model: Model) -> tuple[str, str]:
    if name == "scheduler":
        return "diffusers", _scheduler_class(model)
    if name in WEIGHTS:
        return "diffusers", {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}[name]
    is_text = name.startswith("text_encoder")
    return "transformers", _text_class(name) if is_text else "CLIPTokenizer"


def _scheduler_class(model: Model) -> str:
    """One that knows all that is in its configuration, and that tells few steps."""
    if model.finding.distillation == "lcm":
        return "LCMScheduler"
    trailing = single.trained_for(model.finding).get("timestep_spacing") == "trailing"
    euler = trailing or model.arch.version == "xl"
    return "EulerDiscreteScheduler" if euler else "PNDMScheduler"


def _index(model: Model) -> str:
    return _json(dict(_index_rows(model)))


def _index_rows(model: Model) -> Iterator[tuple[str, Any]]:
    arch = model.arch
    xl, refiner = arch.version == "xl", arch.added == "aesthetic"
    yield "_class_name", REFINER if refiner else PIPELINES[arch.beside][xl]
    yield "_diffusers_version", diffusers.__version__
    optional = ("feature_extractor", "image_encoder") if xl else ("feature_extractor",)
    yield from ((name, [None, None]) for name in optional)
    if xl:
        yield "force_zeros_for_empty_prompt", not refiner
    else:
        yield from (("safety_checker", [None, None]), ("requires_safety_checker", False))
    if refiner:
        yield "requires_aesthetics_score", True
        yield from ((name, [None, None]) for name in ("text_encoder", "tokenizer"))
    tokenizers = [name.replace("text_encoder", "tokenizer") for name in text_names(arch)]
    for name in (*model.parts, *tokenizers, "scheduler"):
        yield name, _class(name, model)


def _tokenizer(tokenizer: Any) -> Iterator[tuple[str, str]]:
    """The vocabulary in the form that every version of transformers reads."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": tokenizer.model_max_length,
        "pad_token": tokenizer.pad_token,
    }
    yield "vocab.json", json.dumps(tokenizer.get_vocab(), ensure_ascii=False)
    yield "merges.txt", "\n".join(["#version: 0.2", *merges, ""])
    yield "tokenizer_config.json", _json(settings)


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, default=list) + "\n"
