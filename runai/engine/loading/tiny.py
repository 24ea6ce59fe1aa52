"""Tiny autoencoders: the decoder alone, from a file or a diffusers folder.

Its sizes are those of the tensors, in a folder too. Given pictures are encoded by a model's own
VAE, so the encoder is not read. Latents come and go as the UNet has them: `latent_magnitude` and
`latent_shift` of a configuration are for storing latents as bytes, which is not done here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderTiny

from runai.engine.detection.tiny_autoencoders import Sizes, sizes_of
from runai.engine.loading import folders, networks
from runai.engine.loading.names import Layout, Source
from runai.engine.loading.weights import Reader, read_index
from runai.errors import ModelBroken

_READ = ("act_fn", "upsample_fn", "scaling_factor")  # of a folder's configuration


def read(path: Path, reader: Reader) -> Any:
    """An AutoencoderTiny that decodes. Raises ModelBroken if there is none in it."""
    if path.is_dir():
        rows, said = folders.weights_of(path), folders.config_of(path)
    else:
        rows, said = read_index(path)[0], {}
    sizes = sizes_of({name: row.shape for name, row in rows.items()})
    if sizes is None or not sizes.blocks:
        raise ModelBroken(f"{path.name} holds no decoder of a tiny autoencoder.")
    return networks.fill(_empty(sizes, said), rows, [_layout(sizes)], reader)


def _empty(sizes: Sizes, said: Mapping[str, Any]) -> Any:
    config = {
        "latent_channels": sizes.channels,
        "decoder_block_out_channels": [sizes.width] * len(sizes.blocks),
        "num_decoder_blocks": sizes.blocks,
        **{name: said[name] for name in _READ if name in said},
    }
    network = networks.empty(AutoencoderTiny.from_config, config)
    del network.encoder
    return network


def _layout(sizes: Sizes) -> Layout:
    """Every layer under its number in the file."""

    def layout(name: str) -> Source:
        found = re.fullmatch(r"decoder\.layers\.(\d+)\.(.*)", name)
        assert found is not None, name  # noqa: S101 (a decoder has nothing else)
        return Source(f"{sizes.prefix}{sizes.first + int(found[1])}.{found[2]}")

    return layout
