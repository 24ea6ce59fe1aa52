"""What a model's form says of it beside its networks, so that it is drawn with as before.

PURE. A folder says in its scheduler's configuration what the UNet predicts, and whether it was
trained to pure noise; a single file by tensors without content, which others know too, and in
its metadata, which a .ckpt does not have. Few steps are told by metadata, or by the name. What
a form could not say is refused: a conversion does not change what is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from runai.engine.archs import Arch
from runai.engine.conversion.pieces import Model, Piece, Pieces
from runai.engine.detection import Finding, prediction_in
from runai.engine.detection.checkpoints import TOLD
from runai.engine.detection.folders import distillation_of_folder
from runai.engine.detection.metadata import distillation_in, distillation_of
from runai.engine.detection.tensors import VELOCITY_MARK, ZERO_SNR_MARK
from runai.engine.loading import single
from runai.engine.loading.weights import Stored
from runai.errors import ModelUnsupported

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
_TAGS = "modelspec.tags"
_PEFT = "lora_adapter_metadata"  # in it PEFT's alphas, without which a LoRA draws otherwise
# what a scheduler's configuration means that leaves it out, of what no single file says
_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
}


def in_metadata(finding: Finding, metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a .safetensors file of this model."""
    said = dict(metadata)
    if finding.prediction and prediction_in(metadata) != finding.prediction:
        said["modelspec.prediction_type"] = PREDICTIONS[finding.prediction]
    if finding.distillation and distillation_in(metadata) != finding.distillation:
        said[_TAGS] = ", ".join(filter(None, (metadata.get(_TAGS), finding.distillation)))
    return said


def in_tensors(finding: Finding, arch: Arch, source: Path) -> Pieces:
    """Tensors without content for a single file; `source`: any file, nothing is read of it."""
    velocity = finding.prediction == "v_prediction" != arch.scheduler["prediction_type"]
    marks = {VELOCITY_MARK: velocity, ZERO_SNR_MARK: finding.zero_snr}
    nothing = Stored(source, torch.float32, (0,), (1,), 0)
    return {name: Piece((nothing,), (0,)) for name, so in marks.items() if so}


def check_file(finding: Finding, target: Path, pieces: Pieces, metadata: Mapping[str, str]) -> None:
    """Refuse a single file that would be taken for a model of other steps. ModelUnsupported."""
    told = "lcm" if TOLD in pieces else distillation_in(metadata)
    _check(finding, target.name, told or distillation_of(target.stem))


def check_folder(model: Model, target: Path, scheduler: Mapping[str, Any]) -> None:
    """The same for a folder, by its configurations."""
    told = distillation_of_folder(target.name, model.parts["unet"].config, scheduler)
    _check(model.finding, target.name, told)


def check_lora(metadata: Mapping[str, str], target: Path) -> None:
    """Refuse a .ckpt of a LoRA that says in its metadata how strong it is."""
    if _PEFT in metadata:
        raise ModelUnsupported(
            f"{target.name} could not hold what the LoRA's metadata says of its strength.",
            hint="Use it as it is: a .safetensors holds no code.",
        )


def check_schedule(said: Mapping[str, Any], finding: Finding, arch: Arch) -> None:
    """Refuse a folder whose schedule of noise a single file could not stand for."""
    read = {**arch.scheduler, **single.trained_for(finding)}
    for name, unsaid in _SCHEDULE.items():
        if said.get(name, unsaid) != read.get(name, unsaid):
            raise _other_schedule(arch, name, said.get(name, unsaid))
    trailing = [config.get("timestep_spacing") == "trailing" for config in (said, read)]
    if trailing[0] != trailing[1]:
        raise _other_schedule(arch, "timestep_spacing", said.get("timestep_spacing"))


def _other_schedule(arch: Arch, name: str, value: Any) -> ModelUnsupported:
    return ModelUnsupported(
        f"Its scheduler has {name} {value}: a single file of a {arch.name} could not say so, and "
        "would be drawn with otherwise.",
        hint="Use it as the folder that it is.",
    )


def _check(finding: Finding, name: str, told: str | None) -> None:
    if told == finding.distillation:
        return
    if finding.distillation is None:
        raise ModelUnsupported(
            f"{name} would be taken for a model of few steps ({told}), which it is not.",
            hint=f"Choose a name without {told}.",
        )
    raise ModelUnsupported(
        f"It is a model of few steps ({finding.distillation}), and {name} could not say so.",
        hint=f"Let the name hold {finding.distillation}.",
    )
