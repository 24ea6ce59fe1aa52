"""Every architecture's row builds networks of the published sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from runai.engine.archs import ARCHS, Arch

# millions of parameters, as published or as counted in the published files
UNETS = {
    "sd1": 859.52,
    "sd1-inpaint": 859.54,
    "sd1-edit": 859.53,
    "sd2": 865.91,
    "sd2-v": 865.91,
    "sd2-inpaint": 865.93,
    "sd2-depth": 865.91,
    "upscale-x4": 473.40,
    "sdxl": 2567.46,
    "sdxl-inpaint": 2567.48,
    "sdxl-edit": 2567.47,
    "sdxl-refiner": 2259.53,
    "ssd-1b": 1331.33,
    "segmind-vega": 745.23,
}
TEXTS = {768: 123.06, 1024: 340.39, 1280: 694.66}
VAES = {4: 83.65, 3: 55.33}


def millions(network: Any) -> float:
    return sum(math.prod(p.shape) for p in network.parameters()) / 1e6


@pytest.mark.parametrize("arch", ARCHS.values(), ids=lambda arch: arch.name)
def test_the_networks_have_as_many_parameters_as_the_published_ones(arch: Arch) -> None:
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(arch.unet)
        vae = AutoencoderKL.from_config(arch.vae)
        texts = [
            (CLIPTextModelWithProjection if row.pooled else CLIPTextModel)(
                CLIPTextConfig(**row.config)
            )
            for row in arch.texts
        ]
    assert millions(unet) == pytest.approx(UNETS[arch.name], abs=0.01)
    assert millions(vae) == pytest.approx(VAES[len(arch.vae["block_out_channels"])], abs=0.01)
    for row, text in zip(arch.texts, texts, strict=True):
        assert millions(text) == pytest.approx(TEXTS[row.config["hidden_size"]], abs=0.01)
