"""Catalogue entries to models in memory.

Theory of operation. A model on disk is a diffusers folder (`folders`) or a single file
(`single`). Both come down to the same thing: an empty network for each part, and a place in a
file for each of its tensors (`names`), read straight to where and as what it stays
(`networks`, `weights`). So a load costs what reading and converting cost, needs no more memory
than the weights have in the end, and leaves nothing open or mapped behind.

Nothing here unpickles a file (`runai.engine.pickles`), and nothing reaches the network.
Whatever goes wrong ends in one of our errors that names the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import AutoencoderTiny
from diffusers.image_processor import VaeImageProcessor

from runai.engine import detection
from runai.engine.archs import ARCHS, CHANNELS_BESIDE, Arch, Defaults
from runai.engine.catalogue import Entry
from runai.engine.detection import Finding
from runai.engine.devices import Place
from runai.engine.distillations import DISTILLATIONS
from runai.engine.faults import is_of_device
from runai.engine.loading import folders, single, tiny
from runai.engine.loading.weights import Reader
from runai.engine.model import LoadedModel
from runai.errors import ModelBroken, ModelError, ModelUnsupported

__all__ = ["load", "load_vae", "with_vae"]

# what the libraries raise for files that are damaged or do not belong together
_BROKEN = (OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, EOFError)
# inputs that the UNet of an arch reads only if its row says so
_FOREIGN_INPUTS = {"class_embed_type": None, "encoder_hid_dim_type": None}


def load(
    entry: Entry, place: Place, base_paths: Sequence[Path], archs: dict[str, Arch] = ARCHS
) -> LoadedModel:
    """Read a model whole. Raises a ModelError naming it if that cannot be done."""
    with _named(entry), Reader(place) as reader:
        finding = _finding(entry, archs)
        arch = archs[finding.arch]
        if entry.format == "diffusers":
            parts = folders.read(entry.path, arch, reader)
        else:
            velocity = archs.get(f"{arch.name}-v")
            arch, parts = single.read(entry.path, arch, finding, base_paths, reader, velocity)
        _check(parts["unet"].config, parts["texts"], arch)
        defaults = _defaults(arch, parts["unet"].config, finding)
        return _assemble(entry, arch, place, defaults, parts)


def load_vae(entry: Entry, place: Place) -> Any:
    """A VAE that lies alone, in a file or a folder, to be used with `with_vae`."""
    with _named(entry), Reader(place) as reader:
        if entry.tiny:
            return tiny.read(entry.path, reader)
        if entry.path.is_dir():
            return folders.read_vae(entry.path, reader)
        return single.read_vae(entry.path, ARCHS["sd1"], reader)


def with_vae(model: LoadedModel, vae: Any) -> LoadedModel:
    """The model with another VAE, which is shared and stays as it is. A tiny autoencoder decodes
    only, and takes latents as the UNet has them.

    The scaling of latents belongs to the UNet that was trained on them: the VAEs of Stable
    Diffusion 1 and SDXL look alike, and no file of a VAE says for which it is.
    """
    is_tiny = isinstance(vae, AutoencoderTiny)
    if _latents(vae) != _latents(model.vae) or (is_tiny and model.has_latent_statistics):
        raise ModelUnsupported(
            f"This VAE does not fit {model.name}: its latents are others.",
            hint="Choose a VAE that was made for this kind of model.",
            field="vae",
        )
    if is_tiny:
        return replace(model, tiny=vae)
    fitted = copy(vae)
    fitted.register_to_config(scaling_factor=model.vae.config.scaling_factor)
    return replace(model, vae=fitted)


def _latents(vae: Any) -> tuple[int, int]:
    """The form of a VAE's latents: channels, and how often a side is halved and one more."""
    return vae.config.latent_channels, len(vae.config.block_out_channels)


@contextmanager
def _named(entry: Entry) -> Iterator[None]:
    """Turns whatever goes wrong into an error that names the entry."""
    try:
        yield
    except ModelError as error:
        if entry.name not in error.message:
            error.message = f"{entry.name} cannot be loaded. {error.message}"
        raise
    except _BROKEN as error:
        if is_of_device(error):
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelBroken(f"{entry.name} cannot be loaded: {reason[0][:300]}") from error


def _finding(entry: Entry, archs: dict[str, Arch]) -> Finding:
    """What the model is: what the catalogue knows of it, else what a look at it tells."""
    if entry.arch in archs:
        return Finding(
            "model",
            entry.arch,
            distillation=entry.distillation,
            prediction=entry.prediction,
            zero_snr=entry.zero_snr,
        )
    if entry.format == "diffusers":
        found = detection.identify_folder(entry.path, entry.version)
    else:
        found = detection.identify(entry.path)
    if found.fault:
        raise found.error(entry.name)
    if found.arch not in archs:
        raise ModelUnsupported(f"{entry.name} is not a model that can be drawn with.")
    return found


def _defaults(arch: Arch, unet: Any, finding: Finding) -> Defaults:
    few_steps = DISTILLATIONS.get(finding.distillation or "")
    told = getattr(unet, "time_cond_proj_dim", None) is not None
    return few_steps.defaults_for(told=told) if few_steps else arch.defaults


def _check(unet: Any, texts: Sequence[Any], arch: Arch) -> None:
    """Raise ModelUnsupported for networks that the step loop cannot call as the arch says."""
    channels = unet.out_channels + CHANNELS_BESIDE[arch.beside]
    if unet.in_channels != channels:
        raise ModelUnsupported(
            f"Its UNet has {unet.in_channels} input channels, where {arch.name} has {channels}."
        )
    width = sum(text.network.config.hidden_size for text in texts)
    if unet.cross_attention_dim != width:
        raise ModelUnsupported(f"Its UNet reads another text encoder than the one of {arch.name}.")
    added = "text_time" if arch.added in ("sizes", "aesthetic") else None
    for name, expected in {**_FOREIGN_INPUTS, "addition_embed_type": added}.items():
        if getattr(unet, name, None) != expected:
            raise ModelUnsupported(f"Its UNet is not that of {arch.name}: {name} is another.")


def _assemble(
    entry: Entry, arch: Arch, place: Place, defaults: Defaults, parts: dict[str, Any]
) -> LoadedModel:
    factor = 2 ** (len(parts["vae"].config.block_out_channels) - 1)
    return LoadedModel(
        entry=entry,
        arch=arch,
        place=place,
        defaults=defaults,
        images=VaeImageProcessor(vae_scale_factor=factor),
        masks=VaeImageProcessor(
            vae_scale_factor=factor,
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        ),
        **parts,
    )
