"""What an architecture is: the types of the rows in `table`.

A row holds everything the engine needs to know to build a model and to draw with it. Nothing
here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from runai.schema.events import Version
from runai.schema.requests import Generate

Config = dict[str, Any]
Beside = Literal["nothing", "mask", "picture", "depth", "low_res"]
Added = Literal["nothing", "sizes", "aesthetic", "noise_level"]
CHANNELS_BESIDE: dict[Beside, int] = {
    "nothing": 0,
    "mask": 5,  # the mask and the masked picture's latents
    "picture": 4,
    "depth": 1,
    "low_res": 3,  # as pixels
}


@dataclass(frozen=True)
class TextEncoding:
    """One text encoder of an arch and how it is read.

    `prefix`: its tensors' in a single file. `layer`: which hidden state conditions the UNet:
    -1 the last, through the final norm; -2 the one before, as it is. `pooled`: whether its
    pooled and projected embedding goes into the UNet too. `padding`: what fills up a prompt.
    """

    kind: Literal["clip", "open_clip"]
    config: Config
    prefix: str
    padding: str
    layer: int = -1
    pooled: bool = False


@dataclass(frozen=True)
class Defaults:
    """What a request that says nothing gets from this kind of model."""

    num_inference_steps: int = 20
    guidance_scale: float = 7.5
    sampler: str = "euler"

    def overridden_by(self, request: Generate) -> Defaults:
        """What is drawn with: the request's own, and these where it says nothing."""
        said = {row.name: getattr(request, row.name) for row in fields(self)}
        return replace(self, **{name: value for name, value in said.items() if value is not None})


@dataclass(frozen=True)
class Arch:
    """One architecture: everything the engine needs to know to build one and to draw with it.

    `size`: the side in pixels of the pictures it was trained on. `beside`: what its UNet reads
    beside the latents: mask and masked picture; the picture to edit; a depth map; the small
    picture to enlarge. `added`: what it is told besides the text: original and target sizes;
    sizes and an aesthetic score; how noisy the small picture is. `noising`: the schedule by
    which the small picture is made noisy, of an upscaler.
    """

    name: str
    version: Version
    size: int
    unet: Config
    texts: tuple[TextEncoding, ...]
    vae: Config
    scheduler: Config
    beside: Beside = "nothing"
    added: Added = "nothing"
    tasks: tuple[str, ...] = ("txt2img", "img2img", "inpaint", "outpaint")
    defaults: Defaults = field(default_factory=Defaults)
    noising: Config = field(default_factory=dict)

    @property
    def scale(self) -> int:
        """Pixels per latent, along a side."""
        return int(2 ** (len(self.vae["block_out_channels"]) - 1))
