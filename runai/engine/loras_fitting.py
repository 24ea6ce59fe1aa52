"""From a LoRA's file to a model's layers: what it holds, whether it fits, what it will take.

Rules: a file's index is read first, which says all but the numbers: whether it is sound and of
a known kind (`look`), then, beside a model, which layers it adds to and how much memory that
takes (`fit`). Its tensors are read after that, layer by layer, never all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from runai.engine import loras_files, loras_shapes
from runai.engine.archs import ARCHS
from runai.engine.catalogue import Entry
from runai.engine.detection.adapters import WIDTHS
from runai.engine.faults import is_of_device
from runai.engine.loading.weights import Stored
from runai.engine.loras_additions import Addition, make
from runai.engine.loras_files import Content
from runai.engine.loras_names import text_spellings, unet_spellings
from runai.engine.main_memory import available_memory
from runai.engine.model import LoadedModel
from runai.engine.small_files import index, read
from runai.errors import ModelBroken, ModelError, ModelUnsupported, OutOfMemory

# what tensors of odd shapes raise, one way or another
_MISFITS = (ValueError, LookupError, RuntimeError)


@contextmanager
def blamed() -> Iterator[None]:
    """What is wrong with a file in here is the fault of the request's `loras`."""
    try:
        yield
    except ModelError as error:
        error.field = "loras"
        raise


def look(entry: Entry) -> Content[Stored]:
    """What a file holds. Raises ModelBroken, ModelUnsafe, ModelUnsupported."""
    return loras_files.sort(*index(entry.path), entry.name)


def check(lora: Entry, content: Content[Stored], model: Entry) -> None:
    """Raise ModelUnsupported for a LoRA whose file says it is for a UNet of another width."""
    if not any(part == "unet" for part, _ in content.layers):
        return  # text encoders of one width are in several archs
    known = set(WIDTHS.values())
    base = WIDTHS[ARCHS[model.arch].unet["cross_attention_dim"]]
    made_for = lora.arch.removesuffix("-v")
    if made_for in known and made_for != base:
        raise _does_not_fit(lora, model)


@dataclass(frozen=True)
class _Piece:
    """What one layer gets: of the UNet, or of a text encoder. `name`: as in the file, flat."""

    name: str
    layer: Any
    parts: Mapping[str, Stored]
    alpha: float | None
    of_unet: bool


@dataclass(frozen=True)
class Fit:
    """A file beside a model. `kept_bytes`: of what it will add, on the model's device.
    `passing_bytes`: what main memory holds besides while it is made.

    `unused`: how many of the file's layers this model does not have, or no table knows.
    """

    pieces: list[_Piece] = field(default_factory=list)
    unused: int = 0
    kept_bytes: int = 0
    passing_bytes: int = 0


def fit(model: LoadedModel, entry: Entry, content: Content[Stored]) -> Fit:
    """Find a model's layers for what a file holds. Raises ModelUnsupported if it does not fit."""
    layers = dict(_layers(model))
    found = [
        _Piece(key[1], layers[key], parts, content.alpha_of(key), key[0] == "unet")
        for key, parts in content.layers.items()
        if key in layers
    ]
    if not found:
        raise _does_not_fit(entry, model.entry, "it knows none of its layers")
    sizes = [_sizes(model, entry, piece) for piece in found]
    kept, passing = sum(size[0] for size in sizes), max(size[1] for size in sizes)
    unused = len(content.unknown) + len(content.layers) - len(found)
    return Fit(found, unused, kept * model.dtype.itemsize, passing)


def _sizes(model: LoadedModel, entry: Entry, piece: _Piece) -> tuple[int, int]:
    """Of one layer: the numbers that are kept, and the bytes that pass."""
    shapes = {role: row.shape for role, row in piece.parts.items()}
    weight = tuple(piece.layer.weight.shape)
    try:
        return loras_shapes.kept_numbers(weight, shapes), loras_shapes.passing_bytes(weight, shapes)
    except (ValueError, LookupError) as error:
        raise _does_not_fit(entry, model.entry, f"{piece.name}: {error}") from error


def ask_for_room(
    model: LoadedModel, entry: Entry, fitted: Fit, make_room: Callable[[int], None]
) -> None:
    """Before anything is read. `make_room` does so on the device. Raises OutOfMemory."""
    if not model.place.has_own_memory:
        make_room(fitted.kept_bytes + fitted.passing_bytes)
        return
    make_room(fitted.kept_bytes)
    if fitted.passing_bytes > available_memory():
        raise OutOfMemory(
            f"The LoRA {entry.name} takes {fitted.passing_bytes / 2**30:.1f} GiB of main memory "
            "while it is read.",
            hint="Use a smaller LoRA, or close other programs.",
            field="loras",
        )


def additions(
    model: LoadedModel, entry: Entry, fitted: Fit
) -> Iterator[tuple[bool, Any, Addition]]:
    """Read what each layer gets, and work it out: whether it is the UNet's, the layer, and that.

    Raises ModelUnsupported if it does not fit after all, ModelBroken for a damaged file.
    """
    for piece in fitted.pieces:
        try:
            made = make(piece.layer, read(piece.parts), piece.alpha, model.place)
        except _MISFITS as error:
            if is_of_device(error):
                raise
            raise _does_not_fit(entry, model.entry, f"{piece.name}: {error}") from error
        if not made.is_finite:
            raise ModelBroken(
                f"The LoRA {entry.name} holds numbers that are not finite in "
                f"{str(model.dtype).removeprefix('torch.')} ({piece.name[:100]}).",
                field="loras",
            )
        yield piece.of_unet, piece.layer, made


def _does_not_fit(lora: Entry, model: Entry, why: str = "") -> ModelUnsupported:
    made_for = f"a LoRA for {lora.arch}" if lora.arch else "a LoRA for another architecture"
    what = f" ({why.splitlines()[0]})" if why else ""
    return ModelUnsupported(
        f"{lora.name} is {made_for} and does not fit {model.name}, which is {model.arch}{what}.",
        hint="Use it with a model of the architecture it was trained on.",
        field="loras",
    )


def _layers(model: LoadedModel) -> dict[tuple[str, str], Any]:
    """The layers of a model that can be added to, by part and by each flat spelling."""
    found: dict[tuple[str, str], Any] = {}
    unet = _weighted(model.unet)
    for spelling, name in unet_spellings(unet, model.unet.config).items():
        found["unet", spelling] = unet[name]
    # SDXL's refiner has the second of SDXL's text encoders only
    first = 2 if model.arch.added == "aesthetic" else 1
    for number, text in enumerate(model.texts, first):
        layers = _weighted(text.network)
        for spelling, name in text_spellings(layers).items():
            found[f"text{number}", spelling] = layers[name]
    return found


def _weighted(network: Any) -> dict[str, Any]:
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {name: m for name, m in network.named_modules() if isinstance(m, kinds)}
