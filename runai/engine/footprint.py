"""How much memory a model will take, from its files alone, before anything is loaded.

Headers of safetensors files, and the pickles of torch's, tell the number of weights; the row of
the arch (or a folder's JSON configurations) how wide the networks are. No weights are read, no
pickle is run and no torch is imported. What cannot be read is estimated as Stable Diffusion 1:
loading will say what is wrong with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from runai.engine import detection, images, pickles
from runai.engine.archs import ARCHS, Arch
from runai.engine.catalogue import Entry
from runai.engine.detection.checkpoints import TOLD, UNET, VAE
from runai.engine.detection.header import is_safetensors
from runai.engine.detection.tiny_autoencoders import sizes_of
from runai.engine.distillations import DISTILLATIONS
from runai.engine.geometry import Extent, chosen
from runai.engine.plan import Weights, Work
from runai.errors import ModelError
from runai.schema.requests import GenerationRequest, TextToImage, Upscale

FP32 = 4  # bytes of a number
ENLARGED = 4  # how many times an upscaled picture's sides are the given one's
# an editing UNet is guided by the text and by the picture
_ROWS = {"picture": 3}
# of a file that does not tell
_ARCHS = {"v1": "sd1", "v2": "sd2-v", "xl": "sdxl"}
_TEXT_FOLDERS = ("text_encoder", "text_encoder_2", "depth_estimator")
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Footprint:
    """A model's weights in numbers (not bytes), and what `plan.Work` wants to know of it.

    `texts`: its text encoders', and a depth estimator's. `native`: the side in pixels of a
    picture whose size nobody asked for. `rows`: of a UNet call, for one guided picture;
    `guidance`: of one whose guidance nobody asked for. `upcasts`: whether an fp16 VAE is made
    fp32 to decode.
    """

    texts: tuple[int, ...]
    unet: int
    vae: int
    native: int
    unet_width: int = 320
    vae_width: int = 256
    scale: int = 8
    rows: int = 2
    guidance: float = 7.5
    upcasts: bool = False

    def weights(self, element: int) -> Weights:
        """In bytes, at `element` bytes a number."""
        texts = tuple(count * element for count in self.texts)
        return Weights(texts, self.unet * element, self.vae * element)

    def work(self, request: GenerationRequest, element: int, *, fp16: bool) -> Work:
        """One picture of the request, at `element` bytes a number; those may be `fp16`."""
        width, height = extent_of(request, self.native).size
        asked = request.guidance_scale
        rows = self.rows if (self.guidance if asked is None else asked) > 1 else 1
        vae_element = FP32 if self.upcasts and fp16 else element
        widths = (self.unet_width, self.vae_width)
        reuses = request.reuse > 1
        return Work(width, height, rows, element, vae_element, *widths, self.scale, reuses)


@lru_cache(maxsize=64)
def of(entry: Entry) -> Footprint:
    """The footprint of a model that need not be loaded."""
    try:
        if entry.format == "diffusers":
            return _of_folder(entry)
        return _of_shapes(entry, _shapes(entry.path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ModelError):
        return _typical(entry)


def of_vae(entry: Entry) -> int:
    """How many weights a VAE has that lies alone; 0 if it cannot be read."""
    try:
        return _count(entry.path) if entry.path.is_dir() else _count_file(entry.path)
    except (OSError, ValueError, ModelError):
        return 0


def decoded_by(vae: Entry, work: Work, request: GenerationRequest) -> Work:
    """The work of a request whose picture a tiny autoencoder decodes. Where there are pictures to
    be encoded, the model's own VAE is called as well, and nothing is saved.
    """
    width = _tiny_width(vae) if vae.tiny and isinstance(request, TextToImage) else None
    return work if width is None else replace(work, vae_width=width, vae_element=work.element)


def _tiny_width(vae: Entry) -> int | None:
    """How wide a tiny autoencoder's layers are; None if it cannot be read."""
    files = sorted(vae.path.glob("*.safetensors")) if vae.path.is_dir() else [vae.path]
    try:
        found = (sizes for file in files if (sizes := sizes_of(_shapes(file))) is not None)
        return next((sizes.width for sizes in found), None)
    except (OSError, ValueError, ModelError):
        return None


def _typical(entry: Entry, *, told: bool = False) -> Footprint:
    """What models of an arch have in common, with the weights of Stable Diffusion 1.

    `told`: the UNet reads its guidance from an embedding, so a second row is no use to it.
    """
    row = _row(entry)
    few_steps = DISTILLATIONS.get(entry.distillation or "")
    defaults = few_steps.defaults_for(told=told) if few_steps else row.defaults
    blocks = row.vae["block_out_channels"]
    return Footprint(
        texts=(123_060_480,),
        unet=859_520_964,
        vae=83_653_863,
        native=row.size,
        unet_width=row.unet["block_out_channels"][0],
        vae_width=_widest(blocks),
        scale=_scale(blocks),
        rows=1 if told else _ROWS.get(row.beside, 2),
        guidance=defaults.guidance_scale,
        upcasts=row.vae.get("force_upcast", False),
    )


def _row(entry: Entry) -> Arch:
    return ARCHS[entry.arch or _ARCHS.get(entry.version or "", "sd1")]


def extent_of(request: GenerationRequest, native: int) -> Extent:
    """The size that will be drawn. Of a picture that cannot be read, the native one."""
    if isinstance(request, TextToImage):
        return chosen(request.width, request.height, Extent(native, native))
    given = Extent(*(images.size(request.image) or (native, native))).floor()
    if isinstance(request, Upscale):
        return Extent(given.width * ENLARGED, given.height * ENLARGED)
    return chosen(request.width, request.height, given)


def _of_shapes(entry: Entry, shapes: Shapes) -> Footprint:
    texts = [text.prefix for text in _row(entry).texts]
    counts = dict.fromkeys((UNET, VAE, *texts), 0)
    for name, shape in shapes.items():
        prefix = next((p for p in counts if name.startswith(p)), None)
        if prefix is not None:
            counts[prefix] += math.prod(shape)
    typical = _typical(entry, told=TOLD in shapes)
    return replace(
        typical,
        texts=tuple(counts[p] for p in texts if counts[p]),
        unet=counts[UNET],
        vae=counts[VAE] or typical.vae,  # without one it is drawn with a VAE that lies beside it
    )


def _of_folder(entry: Entry) -> Footprint:
    unet, vae = (_config(entry.path / part) for part in ("unet", "vae"))
    blocks = vae["block_out_channels"]
    texts = (_count(entry.path / part) for part in _TEXT_FOLDERS)
    return replace(
        _typical(entry, told=unet.get("time_cond_proj_dim") is not None),
        texts=tuple(count for count in texts if count),
        unet=_count(entry.path / "unet"),
        vae=_count(entry.path / "vae"),
        native=unet["sample_size"] * _scale(blocks),
        unet_width=unet["block_out_channels"][0],
        vae_width=_widest(blocks),
        scale=_scale(blocks),
        upcasts=entry.version == "xl" and vae.get("force_upcast", True),
    )


def _widest(blocks: Sequence[int]) -> int:
    """Of the VAE's layers that work on whole pixels."""
    return blocks[min(1, len(blocks) - 1)]


def _scale(blocks: Sequence[int]) -> int:
    return int(2 ** (len(blocks) - 1))


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def _count(folder: Path) -> int:
    """The weights in a folder, which may hold the same ones in several formats."""
    sets: dict[str, int] = {}
    for file in folder.glob("*"):
        if file.suffix in (".safetensors", ".bin"):
            kind = f"{file.suffix} {'.fp16.' in file.name} {'non_ema' in file.name}"
            sets[kind] = sets.get(kind, 0) + _count_file(file)
    return max(sets.values(), default=0)


def _count_file(file: Path) -> int:
    return sum(map(math.prod, _shapes(file).values()))


def _shapes(file: Path) -> Shapes:
    """Of all tensors in a file. Raises a ModelError, or OSError."""
    with file.open("rb") as opened:
        start = opened.read(9)
    if is_safetensors(start):
        return detection.read_header(file)[0]
    tensors = pickles.state_dict(pickles.read(file))
    return {name: tensor.shape for name, tensor in tensors.items()}
