"""Empty networks, and filling them with the tensors of a file.

A network is made without memory for its weights (on torch's meta device) from its
configuration. Then each of its tensors is looked for in the file under the names of `names`,
its shape is compared, and it is read to where it stays. All faults are found before the first
byte is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from runai.engine.loading.names import Layout, Source
from runai.engine.loading.weights import Reader, Rows, Stored
from runai.errors import ModelBroken

Found = dict[str, tuple[Stored, Source]]
CALLED = {
    "UNet2DConditionModel": "UNet",
    "AutoencoderKL": "VAE",
    "AutoencoderTiny": "tiny autoencoder",
    "CLIPTextModel": "text encoder",
    "CLIPTextModelWithProjection": "text encoder",
}


def empty(make: Callable[[Any], Any], config: Any) -> Any:
    """A network without memory for its weights."""
    with init_empty_weights():
        return make(config)


def empty_unet(config: Mapping[str, Any]) -> Any:
    return empty(UNet2DConditionModel.from_config, dict(config))


def empty_vae(config: Mapping[str, Any]) -> Any:
    return empty(AutoencoderKL.from_config, dict(config))


def empty_text_encoder(config: Mapping[str, Any], *, pooled: bool) -> Any:
    """A CLIP text encoder; with its projection if its pooled embedding is wanted."""
    kind = CLIPTextModelWithProjection if pooled else CLIPTextModel
    return empty(kind, CLIPTextConfig.from_dict(dict(config)))


def reconfigured(unet: Any, config: Mapping[str, Any]) -> Any:
    """The same weights in a UNet of another configuration."""
    other = empty_unet(config)
    other.load_state_dict(unet.state_dict(), assign=True)
    return other.eval().requires_grad_(False)


def called_in_errors(network: Any) -> str:
    kind = type(network).__name__
    return CALLED.get(kind, kind)


def fill(network: Any, rows: Rows, layouts: Sequence[Layout], reader: Reader) -> Any:
    """Read all weights of an empty network. ModelBroken if any is missing or misshapen."""
    wanted = network.state_dict()
    called = called_in_errors(network)
    found = locate(wanted, rows, layouts, called)
    in_file_order = sorted(found, key=lambda name: (found[name][0].path, found[name][0].offset))
    weights = {
        name: _read(*found[name], wanted[name], reader, f"{called}'s {name}")
        for name in in_file_order
    }
    network.load_state_dict(weights, assign=True)
    _compute_positions(network, reader.device)
    return network.eval().requires_grad_(False)


def locate(
    wanted: Mapping[str, torch.Tensor], rows: Rows, layouts: Sequence[Layout], called: str
) -> Found:
    """Where each wanted tensor lies, in the layout that finds the most of them."""
    best: Found = {}
    for layout in layouts:
        sources = {name: layout(name) for name in wanted}
        found = {n: (rows[s.name], s) for n, s in sources.items() if s.name in rows}
        if len(found) > len(best):
            best = found
        if len(best) == len(wanted):
            break
    missing = [name for name in wanted if name not in best]
    if not best:
        raise ModelBroken(f"There is no {called} in it.")
    if missing:
        raise ModelBroken(f"{len(missing)} tensors of its {called} are missing ({missing[0]}).")
    for name, (stored, source) in best.items():
        part_of(stored, source, wanted[name], f"{called}'s {name}")
    return best


def part_of(stored: Stored, source: Source, wanted: torch.Tensor, name: str) -> Stored:
    """The rows of a stored tensor that are meant. ModelBroken unless their shape is right.

    Where one was a 1 × 1 convolution and the other is a matrix, they only differ in ones.
    """
    if source.third is not None:
        count = stored.shape[0] // 3 if stored.shape else 0
        stored = stored.rows(source.third * count, count) if count else stored
    shape = tuple(reversed(stored.shape)) if source.transposed else stored.shape
    if _without_ones(shape) != _without_ones(wanted.shape):
        raise ModelBroken(
            f"The {name} is of shape {list(shape)}, where {list(wanted.shape)} belongs."
        )
    return stored


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [side for side in shape if side != 1]


def _read(
    stored: Stored, source: Source, wanted: torch.Tensor, reader: Reader, name: str
) -> torch.Tensor:
    tensor = reader.read(part_of(stored, source, wanted, name))
    return (tensor.T.contiguous() if source.transposed else tensor).reshape(wanted.shape)


def _compute_positions(network: Any, device: torch.device) -> None:
    """Position ids are computed, not stored: make those that are still empty."""
    for module in network.modules():
        ids = getattr(module, "position_ids", None)
        if isinstance(ids, torch.Tensor):
            module.position_ids = torch.arange(ids.shape[-1], device=device).expand(ids.shape)
