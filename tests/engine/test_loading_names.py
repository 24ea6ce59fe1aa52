"""Where a tensor lies in an original file: the answer is checked against diffusers' converters.

At full size, for every arch, without any weights: the networks are on torch's meta device.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as theirs

from runai.engine.archs import ARCHS
from runai.engine.loading import names, networks

Weights = dict[str, torch.Tensor]


def original(network: Any, layout: names.Layout) -> Weights:
    """A state dict in the original's naming, as the layout has it."""
    found: Weights = {}
    for name, tensor in network.state_dict().items():
        source = layout(name)
        shape = list(reversed(tensor.shape)) if source.transposed else list(tensor.shape)
        if source.third is not None:
            shape[0] *= 3
        found[source.name] = torch.empty(shape, device="meta")
    return found


def assert_found(converted: Weights, network: Any) -> None:
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in converted.items()} == wanted


@pytest.mark.parametrize("name", ARCHS)
def test_the_unet_of_every_arch_lies_where_diffusers_finds_it(name: str) -> None:
    network = networks.empty_unet(ARCHS[name].unet)
    stored = original(network, names.unet(network.config))
    assert len(stored) == len(network.state_dict())
    assert all(key.startswith("model.diffusion_model.") for key in stored)
    assert_found(theirs.convert_ldm_unet_checkpoint(stored, network.config), network)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "upscale-x4"])
def test_the_vae_of_every_arch_lies_where_diffusers_finds_it(name: str) -> None:
    network = networks.empty_vae(ARCHS[name].vae)
    stored = original(network, names.vae(network.config))
    assert len(stored) == len(network.state_dict())
    assert_found(theirs.convert_ldm_vae_checkpoint(stored, network.config), network)


@pytest.mark.parametrize("name", ["sd2", "sdxl", "sdxl-refiner"])
def test_an_open_clip_lies_where_diffusers_finds_it(name: str) -> None:
    text = ARCHS[name].texts[-1]
    # with the projection always: that is how diffusers names it
    network = networks.empty_text_encoder(text.config, pooled=True)
    stored = original(network, names.open_clip(text.prefix))
    projection = stored[f"{text.prefix}text_projection"]
    if not text.pooled:  # there diffusers takes the projection's width for the network's
        stored[f"{text.prefix}text_projection"] = torch.empty(1024, 512, device="meta")
    converted = theirs.convert_open_clip_checkpoint(network, stored, text.prefix)
    if not text.pooled:
        converted["text_projection.weight"] = projection.T
    assert_found(converted, network)


def test_tensors_of_unlike_places_do_not_share_one_name() -> None:
    network = networks.empty_text_encoder(ARCHS["sdxl"].texts[1].config, pooled=True)
    sources = [names.open_clip("x.")(name) for name in network.state_dict()]
    assert len(set(sources)) == len(sources)
