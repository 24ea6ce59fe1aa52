"""Catalogue entries to models in memory.

Theory of operation. A diffusers folder is read component by component with diffusers' own
loaders, restricted to local files. A single file holds one state dict in CompVis' naming:
it is read once (safetensors mapped; .ckpt only through torch's weights-only unpickler, which
runs no code), its arch is told from its shapes (`detection`), the networks are made empty
from that arch's row (`archs`) and filled by diffusers' key converters. The tokenizer, which
no single file holds, comes from a base model or the CLIP folder under the base paths.

Whatever goes wrong ends in one of our errors that names the file.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import single_file_utils as convert
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from runai.engine import detection
from runai.engine.archs import ARCHS, Arch, TextEncoding
from runai.engine.catalogue import Entry
from runai.engine.devices import Place, is_out_of_memory
from runai.engine.model import LoadedModel, TextEncoder
from runai.errors import ModelBroken, ModelError, ModelUnsafe, ModelUnsupported

TOKENIZER_FOLDERS = ("openai/clip-vit-large-patch14", "CLIP")
CLIP_TOKENS = 49408
KNOWN_CHANNELS = (4, 9)
# inputs that a UNet of the Stable Diffusion 1 and 2 family does not read
FOREIGN_INPUTS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type")
# what the libraries raise for files that are damaged or do not belong together
BROKEN = (
    OSError,
    ValueError,
    LookupError,
    RuntimeError,
    TypeError,
    AttributeError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
)


def load(
    entry: Entry, place: Place, base_paths: Sequence[Path], archs: dict[str, Arch] = ARCHS
) -> LoadedModel:
    """Read a model whole. Raises a ModelError naming it if that cannot be done."""
    try:
        if entry.format == "diffusers":
            return _load_folder(entry, place)
        return _load_file(entry, place, base_paths, archs)
    except ModelError:
        raise
    except BROKEN as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelBroken(f"{entry.name} cannot be loaded: {reason[0][:300]}") from error


def _assemble(entry: Entry, arch: Arch, place: Place, parts: dict[str, Any]) -> LoadedModel:
    text = parts["texts"][0].network
    _check_arch(entry, parts["unet"].config, text.config)
    for network in (parts["unet"], parts["vae"], text):
        network.to(place.device).eval().requires_grad_(False)
    factor = 2 ** (len(parts["vae"].config.block_out_channels) - 1)
    return LoadedModel(
        entry=entry,
        arch=arch,
        place=place,
        defaults=arch.defaults,
        images=VaeImageProcessor(vae_scale_factor=factor),
        masks=VaeImageProcessor(
            vae_scale_factor=factor,
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        ),
        **parts,
    )


def _check_arch(entry: Entry, unet: Any, text: Any) -> None:
    """Raise ModelUnsupported for networks that the step loop cannot call."""
    if unet.in_channels not in KNOWN_CHANNELS:
        raise ModelUnsupported(f"{entry.name} has a UNet of {unet.in_channels} input channels.")
    foreign = [name for name in FOREIGN_INPUTS if getattr(unet, name, None) is not None]
    if foreign or unet.cross_attention_dim != text.hidden_size:
        raise ModelUnsupported(
            f"{entry.name} is not of the Stable Diffusion 1 or 2 family: "
            f"its UNet reads {', '.join(foreign) or 'another text encoder'}."
        )


# --- diffusers folders -------------------------------------------------------------------


def _load_folder(entry: Entry, place: Place) -> LoadedModel:
    path = entry.path
    tokenizer = _tokenizer(path / "tokenizer")
    text_encoder = _component(CLIPTextModel, path / "text_encoder", place, dtype=place.dtype)
    if len(tokenizer) > text_encoder.config.vocab_size:
        raise ModelBroken(f"{entry.name}: tokenizer and text encoder do not belong together.")
    parts = {
        "unet": _component(UNet2DConditionModel, path / "unet", place, torch_dtype=place.dtype),
        "vae": _component(AutoencoderKL, path / "vae", place, torch_dtype=place.dtype),
        "texts": (TextEncoder(tokenizer, text_encoder),),
        "scheduler": _scheduler_config(path / "scheduler"),
    }
    arch = ARCHS[_arch_of_folder(parts["unet"].config.in_channels, entry.version)]
    return _assemble(entry, arch, place, parts)


def _arch_of_folder(channels: int, version: str) -> str:
    base = {"v1": "sd1", "v2": "sd2"}[version]
    return {4: base, 9: f"{base}-inpaint"}.get(channels, base)


def _component(cls: Any, folder: Path, place: Place, **dtype: torch.dtype) -> Any:
    if not (folder / "config.json").is_file():
        raise ModelBroken(f"{folder.parent.name} has no {folder.name}/config.json.")
    return cls.from_pretrained(folder, local_files_only=True, variant=_variant(folder), **dtype)


def _variant(folder: Path) -> str | None:
    """`fp16` if only that variant of the weights is there."""
    names = [p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin")]
    plain = any(".fp16." not in name for name in names)
    return "fp16" if names and not plain else None


def _scheduler_config(folder: Path) -> dict[str, Any]:
    from diffusers import PNDMScheduler

    config: dict[str, Any] = PNDMScheduler.load_config(folder, local_files_only=True)
    # what diffusers' pipelines make of any configuration that says or implies otherwise
    return {**config, "clip_sample": False, "steps_offset": 1}


def _tokenizer(folder: Path) -> Any:
    """The CLIP tokenizer in a folder; an empty folder would give one of two tokens."""
    if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise ModelBroken(f"There is no vocabulary in {folder.parent.name}/{folder.name}.")
    return _read_tokenizer(folder)


def _read_tokenizer(folder: Path, **arguments: Any) -> Any:
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True, **arguments)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise ModelBroken(f"The vocabulary in {folder} cannot be read: {error}.") from error


_UNET_KEYS = convert.convert_ldm_unet_checkpoint
_VAE_KEYS = convert.convert_ldm_vae_checkpoint


# --- single files ------------------------------------------------------------------------


def _load_file(
    entry: Entry, place: Place, base_paths: Sequence[Path], archs: dict[str, Arch]
) -> LoadedModel:
    metadata: dict[str, str] = {}
    if entry.format == "safetensors":
        shapes, metadata = detection.read_header(entry.path)
        arch = archs[detection.arch_of(shapes, entry.path.name)]
        weights = load_file(entry.path)
    else:
        weights = _read_ckpt(entry.path)
        shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
        arch = archs[detection.arch_of(shapes, entry.path.name)]
    parts = {
        "unet": _fill(UNet2DConditionModel, arch.unet, _UNET_KEYS, weights, place),
        "vae": _fill(AutoencoderKL, arch.vae, _VAE_KEYS, weights, place),
        "texts": tuple(_text(row, base_paths, weights, place) for row in arch.texts),
    }
    prediction = detection.prediction_in(metadata) or _prediction(arch, parts, place)
    parts["scheduler"] = {**arch.scheduler, "prediction_type": prediction}
    if prediction == "v_prediction" and f"{arch.name}-v" in archs:
        parts["unet"].register_to_config(sample_size=archs[f"{arch.name}-v"].unet["sample_size"])
    return _assemble(entry, arch, place, parts)


def _read_ckpt(path: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "weights_only" not in str(error):
            content = _read_legacy_ckpt(path)
        else:
            raise ModelUnsafe(
                f"{path.name} holds more than weights; loading it could run code."
            ) from None
    weights = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}


def _read_legacy_ckpt(path: Path) -> Any:
    """A file in torch's form before version 1.6, which cannot be mapped."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelUnsafe(
            f"{path.name} holds more than weights; loading it could run code."
        ) from None


def _fill(
    cls: Any,
    config: dict[str, Any],
    converter: Callable[..., dict[str, torch.Tensor]],
    weights: dict[str, torch.Tensor],
    place: Place,
) -> Any:
    with init_empty_weights():
        network = cls.from_config(config)
    return _assign(network, converter(weights, config=network.config), place)


def _text(
    row: TextEncoding, base_paths: Sequence[Path], weights: dict[str, torch.Tensor], place: Place
) -> TextEncoder:
    with init_empty_weights():
        network = CLIPTextModel(CLIPTextConfig(**row.config))
    if row.kind == "clip":
        converted = convert.convert_ldm_clip_checkpoint(weights)
    else:
        converted = convert.convert_open_clip_checkpoint(network, weights)
    flat = {name.removeprefix("text_model."): value for name, value in converted.items()}
    wanted = network.state_dict()
    filled = _assign(network, {k: v for k, v in flat.items() if k in wanted}, place)
    return TextEncoder(_find_tokenizer(base_paths, row), filled, row.layer, row.pooled)


def _assign(network: Any, weights: dict[str, torch.Tensor], place: Place) -> Any:
    """Put converted weights into an empty network; ModelBroken if any is missing."""
    # copied also where nothing changes: the file may be overwritten while it is mapped
    cast = {name: value.to(place.device, place.dtype, copy=True) for name, value in weights.items()}
    missing, _ = network.load_state_dict(cast, strict=False, assign=True)
    if missing:
        kind = type(network).__name__
        raise ModelBroken(f"{len(missing)} tensors of the {kind} are missing ({missing[0]} first).")
    _materialise_buffers(network, place)
    return network


def _materialise_buffers(network: Any, place: Place) -> None:
    """Position ids are computed, not stored: make those that are still empty."""
    for module in network.modules():
        ids = getattr(module, "position_ids", None)
        if isinstance(ids, torch.Tensor) and ids.is_meta:
            module.position_ids = torch.arange(ids.shape[-1], device=place.device).expand(ids.shape)


def _find_tokenizer(base_paths: Sequence[Path], row: TextEncoding) -> Any:
    """The CLIP vocabulary, from its own folder or from any base model that brings it."""
    for base in base_paths:
        own = [base / name for name in TOKENIZER_FOLDERS]
        theirs = sorted(base.glob("*/*/tokenizer"))
        for folder in (*own, *theirs):
            if not (folder / "vocab.json").is_file() and not (folder / "tokenizer.json").is_file():
                continue
            with contextlib.suppress(ModelBroken):  # another folder may have a sound one
                tokenizer = _read_tokenizer(folder, pad_token=row.padding, model_max_length=77)
                if len(tokenizer) == row.config["vocab_size"]:
                    return tokenizer
    raise ModelBroken(
        "A single-file checkpoint needs the CLIP vocabulary, which is not there.",
        hint="Put openai/clip-vit-large-patch14 (its tokenizer files) into the model folder.",
    )


def _prediction(arch: Arch, parts: dict[str, Any], place: Place) -> str:
    """What an SD 2 UNet predicts, found by asking it once; SD 1 always predicts the noise.

    At the last timestep the input is almost pure noise. A network that predicts noise gives
    it back; one that predicts v (≈ minus the picture there) does not.
    """
    if arch.version == "v1" or arch.unet["in_channels"] != 4:
        return "epsilon"
    unet = parts["unet"]
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(1, 77, unet.config.cross_attention_dim)
    with torch.inference_mode():
        said = unet(
            noise.to(place.device, place.dtype),
            torch.tensor([999.0], device=place.device),
            encoder_hidden_states=text.to(place.device, place.dtype),
        ).sample
    likeness = torch.nn.functional.cosine_similarity(
        said.float().cpu().flatten(), noise.flatten(), dim=0
    )
    return "epsilon" if likeness > 0.5 else "v_prediction"
