"""What a diffusers folder is, from its configurations (JSON files) alone.

PURE but for reading those. The UNet's configuration says nearly everything; the width of the
text tells the version. Tiny models have widths of their own: for them what they predict, and
failing that the folder they lie in, decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from runai.engine.archs import ARCHS
from runai.engine.detection import tiny_autoencoders
from runai.engine.detection.adapters import WIDTHS
from runai.engine.detection.finding import FAULTS, Finding, broken, foreign, shown
from runai.engine.detection.metadata import distillation_of
from runai.schema.events import Version

MAX_CONFIG_BYTES = 2**20
Config = Mapping[str, Any]
# (version, channels in) -> arch
_ARCHS = {
    ("v1", 4): "sd1",
    ("v1", 9): "sd1-inpaint",
    ("v1", 8): "sd1-edit",
    ("v2", 4): "sd2",
    ("v2", 9): "sd2-inpaint",
    ("v2", 5): "sd2-depth",
    ("v2", 7): "upscale-x4",
    ("xl", 4): "sdxl",
    ("xl", 9): "sdxl-inpaint",
    ("xl", 8): "sdxl-edit",
}
_VAES = ("AutoencoderKL", "AutoencoderTiny")
_PIPELINES = ("StableDiffusion", "LatentConsistencyModel")
_OTHER_PIPELINES = ("StableDiffusion3", "LatentUpscale", "GLIGEN", "ControlNet", "Adapter", "PAG")
# inputs of a UNet that nothing here can give it
_FOREIGN_INPUTS = ("class_embed_type", "encoder_hid_dim_type")
_COUNTS = ("in_channels", "cross_attention_dim")
_TRAILING = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")


def identify_folder(path: Path, version: Version | None = None) -> Finding:
    """What a diffusers folder holds. `version`: that of the folder it lies in. Never raises."""
    try:
        if not (path / "model_index.json").exists() and (path / "config.json").is_file():
            return _component(path, _read(path / "config.json"))
        index = _read(path / "model_index.json")
        reason = _foreign(index)
        if reason:
            return foreign(reason)
        unet = _read(path / "unet" / "config.json")
        scheduler = _read(path / "scheduler" / "scheduler_config.json")
        return _identify(path.name, index, unet, scheduler, version)
    except OSError as error:
        missing = Path(error.filename or path).relative_to(path)
        return broken(f"it has no readable {missing}: {error.strerror}")
    except FAULTS as error:
        return broken(f"its configurations are damaged ({shown(error, 80)})")


def _component(path: Path, config: Config) -> Finding:
    """A VAE in a folder of its own; other parts of models are nothing alone."""
    kind = shown(config.get("_class_name", ""))
    if kind not in _VAES or config.get("latent_channels", 4) != 4:
        return foreign(f"it is {f'a {kind}' if kind else 'a part of a model'} alone")
    if kind == "AutoencoderTiny":
        return Finding("vae", tiny_autoencoders.named_for(path), format="diffusers", tiny=True)
    upscaler = len(config["block_out_channels"]) == 3
    xl = config.get("scaling_factor") == ARCHS["sdxl"].vae["scaling_factor"]
    arch = "upscale-x4" if upscaler else "sdxl" if xl else ""
    return Finding("vae", arch, format="diffusers")


def _foreign(index: Config) -> str:
    """Why a pipeline is none that can be drawn with, or empty."""
    kind = shown(index.get("_class_name", ""))
    if not kind.startswith(_PIPELINES) or any(word in kind for word in _OTHER_PIPELINES):
        return f"it is a {kind or 'folder that does not say what it is'}, which is not supported"
    texts = [index.get(name) for name in ("text_encoder", "text_encoder_2")]
    return "" if any(row and row[0] for row in texts) else "it has no text encoder"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    with path.open("rb") as file:
        content = from_json(file.read(MAX_CONFIG_BYTES))
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def _identify(
    name: str, index: Config, unet: Config, scheduler: Config, version: Version | None
) -> Finding:
    beyond = next((key for key in _FOREIGN_INPUTS if unet.get(key)), None)
    if beyond:
        return foreign(f"its UNet reads what nothing here can give it ({beyond})")
    wrong = next((key for key in _COUNTS if key in unet and not _is_count(unet[key])), None)
    if wrong:
        return broken(f"its UNet's {wrong} is not a number above 0")
    prediction = str(scheduler.get("prediction_type", "epsilon"))
    arch = _arch(index, unet, _version(unet, prediction, version), prediction)
    if not arch:
        return foreign(f"its UNet reads {unet['in_channels']} channels, which is not supported")
    return Finding(
        "model",
        arch,
        format="diffusers",
        prediction=prediction,
        zero_snr=bool(scheduler.get("rescale_betas_zero_snr")),
        distillation=distillation_of_folder(name, unet, scheduler),
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _version(unet: Config, prediction: str, version: Version | None) -> Version:
    if unet.get("addition_embed_type"):
        return "xl"
    if unet.get("num_class_embeds"):
        return "v2"  # the upscaler
    known = WIDTHS.get(unet.get("cross_attention_dim", 0))
    if known is not None:
        return ARCHS[known].version
    velocity = prediction == "v_prediction" or bool(unet.get("use_linear_projection"))
    return ("v2" if velocity else None) or version or "v1"


def _arch(index: Config, unet: Config, version: Version, prediction: str) -> str:
    arch = _ARCHS.get((version, unet["in_channels"]), "")
    if arch == "sd2" and prediction == "v_prediction":
        return "sd2-v"
    if arch == "sdxl" and not (index.get("text_encoder") or [None])[0]:
        return "sdxl-refiner"
    if arch == "sdxl" and unet.get("mid_block_type") == "UNetMidBlock2D":
        return (
            "ssd-1b" if _deepest(unet.get("transformer_layers_per_block")) > 2 else "segmind-vega"
        )
    return arch


def _deepest(layers: Any) -> int:
    return max(map(_deepest, layers)) if isinstance(layers, list) else int(layers or 0)


def distillation_of_folder(name: str, unet: Config, scheduler: Config) -> str | None:
    """What speaks of few steps: an input for the guidance, the scheduler, last the name."""
    kind = scheduler.get("_class_name")
    if unet.get("time_cond_proj_dim") or kind == "LCMScheduler":
        return "lcm"
    # models of very few steps count them from the end; so do those trained to pure noise
    trailing = scheduler.get("timestep_spacing") == "trailing" and kind in _TRAILING
    plain = not scheduler.get("rescale_betas_zero_snr") and (
        scheduler.get("prediction_type", "epsilon") == "epsilon"
    )
    return distillation_of(name) or ("turbo" if trailing and plain else None)
