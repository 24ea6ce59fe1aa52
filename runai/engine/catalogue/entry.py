"""One thing in the model folder that a request can name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runai.engine.detection import Format
from runai.schema.events import Kind, Version


@dataclass(frozen=True)
class Entry:
    """A model, LoRA, embedding or VAE. `name`: its path below the base, without the ending.

    `arch`: a row of `archs`, of what it is or is for; empty if the file does not tell, and then
    `version` is that of its folder, or None.
    `distillation`: see `distillations`. `prediction`: what its UNet predicts, None where only
    the network itself can say. `zero_snr`: trained to a last step of pure noise. `base`: the
    base path it lies under. `stamp`: changes when the weights do. `tiny`: see `Finding`.
    """

    name: str
    version: Version | None
    format: Format
    path: Path
    example: bool = False
    stamp: tuple[int, int] = (0, 0)  # time of change in ns, size
    kind: Kind = "model"
    arch: str = ""
    distillation: str | None = None
    base: Path = Path()
    prediction: str | None = None
    zero_snr: bool = False
    tiny: bool = False
