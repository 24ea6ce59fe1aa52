"""Decoding: tiles, and half precision that leaves its range, without traces for the next call."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import Pixels
from PIL import Image

from runai.engine import finish, loading
from runai.engine.archs import ARCHS
from runai.engine.catalogue import Catalogue
from runai.engine.devices import Place
from runai.engine.model import LoadedModel
from runai.errors import NotFinite


def read(models: Path, dtype: torch.dtype) -> LoadedModel:
    entry = Catalogue([models]).find("v1/plain")
    return loading.load(entry, Place(torch.device("cpu"), dtype), [models])


@pytest.fixture
def model(models: Path) -> LoadedModel:
    return read(models, torch.float32)


def latents(height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(3))


def decode(model: LoadedModel, *size: int, **how: Any) -> Pixels:
    return np.asarray(finish.decode(model, latents(*size), **how)).astype(int)


def state(vae: Any) -> tuple[Any, ...]:
    weights = {name: value.clone() for name, value in vae.state_dict().items()}
    return (weights, vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size, vae.dtype)


def assert_same(before: tuple[Any, ...], vae: Any) -> None:
    after = state(vae)
    assert before[1:] == after[1:]
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert not any(p.is_inference() for p in vae.parameters())


class Calls:
    """Notes the dtype and latent size of each call of a real decoder."""

    def __init__(self, vae: Any) -> None:
        self.seen: list[tuple[torch.dtype, tuple[int, int]]] = []
        vae.decoder.register_forward_pre_hook(self._note)

    def _note(self, _: Any, args: tuple[torch.Tensor, ...]) -> None:
        self.seen.append((args[0].dtype, (args[0].shape[2], args[0].shape[3])))


# --- tiles -------------------------------------------------------------------------------


def test_a_large_picture_is_decoded_in_tiles_and_almost_the_same(model: LoadedModel) -> None:
    before, calls = state(model.vae), Calls(model.vae)
    whole = decode(model, 96, 64)
    assert [size for _, size in calls.seen] == [(96, 64)]
    tiled = decode(model, 96, 64, tiled=True)
    assert {size for _, size in calls.seen[1:]} == {(64, 64), (48, 64), (64, 16), (48, 16)}
    assert tiled.shape == whole.shape == (768, 512, 3)
    assert whole.std() > 5
    assert np.abs(tiled - whole).mean() < 4
    assert_same(before, model.vae)


def test_a_picture_of_one_tile_is_the_same_to_the_last_bit(model: LoadedModel) -> None:
    assert (decode(model, 64, 64, tiled=True) == decode(model, 64, 64)).all()


def test_tiles_are_set_back_after_a_failure(model: LoadedModel) -> None:
    before = state(model.vae)
    with pytest.raises(RuntimeError), finish.vae_ready(model, model.vae, tiled=True, precise=True):
        raise RuntimeError
    assert_same(before, model.vae)


# --- half precision ----------------------------------------------------------------------


@pytest.fixture(params=[torch.float16, torch.bfloat16])
def half(models: Path, request: pytest.FixtureRequest) -> LoadedModel:
    return read(models, request.param)


@torch.no_grad()
def inflate(model: LoadedModel, by: float) -> None:
    """Make a decoder whose inner numbers are too large for fp16, though its pictures are not.

    The first convolution's output grows; the normalisation behind it takes that back.
    """
    conv = model.vae.decoder.conv_in
    conv.weight *= by
    conv.bias *= by


@pytest.fixture
def overflowing(models: Path) -> Iterator[LoadedModel]:
    model = read(models, torch.float16)
    inflate(model, 2.0**15)
    yield model


def test_a_vae_that_overflows_in_fp16_is_used_in_fp32_once(overflowing: LoadedModel) -> None:
    before, calls = state(overflowing.vae), Calls(overflowing.vae)
    said = overflowing.vae.decode(overflowing.unscaled(latents()).half()).sample
    assert not bool(torch.isfinite(said).all())
    calls.seen.clear()
    picture = decode(overflowing)
    assert [dtype for dtype, _ in calls.seen] == [torch.float16, torch.float32]
    assert picture.std() > 5
    assert_same(before, overflowing.vae)


def test_the_second_decoding_is_that_of_an_fp32_model(overflowing: LoadedModel) -> None:
    precise = replace(overflowing, place=Place(torch.device("cpu"), torch.float32))
    picture = decode(overflowing)
    overflowing.vae.float()
    assert (decode(precise) == picture).all()


def test_a_sound_vae_in_half_precision_is_called_once(half: LoadedModel) -> None:
    calls = Calls(half.vae)
    assert decode(half).std() > 5
    assert [dtype for dtype, _ in calls.seen] == [half.dtype]


@torch.no_grad()
def test_black_in_half_precision_is_checked_in_fp32_whose_answer_counts(half: LoadedModel) -> None:
    half.vae.decoder.conv_out.bias.fill_(-100.0)
    calls = Calls(half.vae)
    assert (decode(half) == 0).all()
    assert [dtype for dtype, _ in calls.seen] == [half.dtype, torch.float32]


@torch.no_grad()
def test_in_fp32_nothing_is_decoded_twice(model: LoadedModel) -> None:
    model.vae.decoder.conv_out.bias.fill_(float("nan"))
    calls = Calls(model.vae)
    with pytest.raises(NotFinite):
        finish.decode(model, latents())
    assert len(calls.seen) == 1


@pytest.mark.parametrize(
    ("arch", "force", "dtype", "used"),
    [
        ("sdxl", True, torch.float16, torch.float32),
        ("sdxl", False, torch.float16, torch.float16),
        ("sdxl", True, torch.bfloat16, torch.bfloat16),
        ("sd1", True, torch.float16, torch.float16),
    ],
)
def test_the_vae_of_sdxl_is_used_in_fp32_where_its_configuration_says_so(
    models: Path, arch: str, force: bool, dtype: torch.dtype, used: torch.dtype
) -> None:
    model = replace(read(models, dtype), arch=ARCHS[arch])
    model.vae.register_to_config(force_upcast=force)
    before, calls = state(model.vae), Calls(model.vae)
    decode(model)
    assert [seen for seen, _ in calls.seen] == [used]
    assert_same(before, model.vae)


def test_a_preview_of_an_upcast_vae_has_colours(models: Path) -> None:
    model = replace(read(models, torch.float16), arch=ARCHS["sdxl"])
    model.vae.register_to_config(force_upcast=True)
    png = finish.Previewer().draw(model, latents())
    assert np.asarray(Image.open(io.BytesIO(png))).std() > 5
    assert model.vae.dtype == torch.float16
