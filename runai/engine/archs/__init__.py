"""The architectures the engine draws with: one row each, everything needed to build one.

A checkpoint in the original (CompVis, or Stability AI's) single-file form holds weights and no
configuration; these rows are what it leaves unsaid. They are facts of the published models. A
diffusers folder brings its own configuration and is only matched to a row.

`arch` says what a row is, `configs` holds the networks' configurations, `table` the rows. No
torch.
"""

from runai.engine.archs.arch import (
    CHANNELS_BESIDE,
    Added,
    Arch,
    Beside,
    Config,
    Defaults,
    TextEncoding,
)
from runai.engine.archs.table import ARCHS

__all__ = [
    "ARCHS",
    "CHANNELS_BESIDE",
    "Added",
    "Arch",
    "Beside",
    "Config",
    "Defaults",
    "TextEncoding",
]
