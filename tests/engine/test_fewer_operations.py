"""What is left out on request: guidance at some steps, and the deep part of the UNet at others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from drawn import Calls, draw, held, last, make_request, pixels, run
from reference import worst
from torch.utils.flop_counter import FlopCounterMode

from runai.engine import reuse
from runai.engine.archs import ARCHS
from runai.engine.engine import TorchEngine
from runai.engine.loading.networks import empty_unet

WORDS = {"prompt": "a cat", "negative_prompt": "b"}
SHARED = {"num_inference_steps": 8, "guidance_scale": 5.0, **WORDS}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that tell their UNets something besides: sizes, a class, a mask, a picture."""
    base = tmp_path_factory.mktemp("zoo")
    for arch in ("sdxl", "upscale-x4", "sd1-inpaint", "sd1-edit"):
        tiny.write_model(base / ARCHS[arch].version / arch, arch)
    return base


@pytest.fixture
def keeper(zoo: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(zoo, device="cpu", dtype="fp32")
    yield engine
    engine.close()


def rows_of(engine: TorchEngine, **fields: Any) -> list[int]:
    """Of each whole UNet call of a request that is drawn alone."""
    draw(engine)
    calls = Calls(held(engine).unet)
    draw(engine, **SHARED, **fields)
    return calls.rows


# --- guidance at some steps ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("within", "rows"),
    [
        ((0.0, 1.0), [2] * 8),
        ((0.0, 0.5), [2] * 4 + [1] * 4),
        ((0.25, 0.75), [1, 1, 2, 2, 2, 2, 1, 1]),
        ((0.0, 0.0), [1] * 8),
        ((1.0, 1.0), [1] * 8),
        ((0.9, 0.1), [1] * 8),
    ],
)
def test_a_step_that_is_not_guided_takes_one_row(
    engine: TorchEngine, within: tuple[float, float], rows: list[int]
) -> None:
    begin, end = within
    assert rows_of(engine, guidance_start=begin, guidance_end=end) == rows


def test_both_halves_of_a_step_of_the_second_order_are_guided_or_neither(
    engine: TorchEngine,
) -> None:
    assert rows_of(engine, sampler="heun", guidance_end=0.5) == [2] * 8 + [1] * 7


def test_a_picture_that_is_never_guided_is_the_one_without_guidance(engine: TorchEngine) -> None:
    without = draw(engine, **{**SHARED, "guidance_scale": 1.0})
    assert (draw(engine, **SHARED, guidance_end=0.0) == without).all()
    assert (draw(engine, **SHARED, guidance_end=0.5) != without).any()


# --- the deep part of the UNet at some steps -------------------------------------------------


@pytest.mark.parametrize(("every", "whole"), [(1, 8), (2, 4), (3, 3), (10, 1)])
def test_the_whole_unet_is_called_as_often_as_asked(
    engine: TorchEngine, every: int, whole: int
) -> None:
    assert rows_of(engine, reuse=every) == [2] * whole


def test_guidance_that_ends_needs_the_whole_unet(engine: TorchEngine) -> None:
    assert rows_of(engine, reuse=4, guidance_end=0.25) == [2, 1, 1]


def test_what_is_reused_at_once_says_what_the_whole_unet_says(engine: TorchEngine) -> None:
    draw(engine)
    unet = held(engine).unet
    given = (
        torch.randn(2, 4, 8, 8),
        torch.tensor([500.0, 20.0]),
        torch.randn(2, 77, unet.config.cross_attention_dim),
    )
    with torch.inference_mode(), reuse.watched(unet) as seen:
        whole = unet(*given).sample
        assert seen.features is not None
        shallow = reuse.shallow(unet, *given, {}, seen.features)
    assert (shallow == whole).all()


@pytest.mark.parametrize(
    ("arch", "task"),
    [
        ("sdxl", "txt2img"),
        ("upscale-x4", "upscale"),
        ("sd1-inpaint", "inpaint"),
        ("sd1-edit", "img2img"),
    ],
)
def test_whatever_a_unet_is_told_it_is_told_at_every_step(
    keeper: TorchEngine, monkeypatch: pytest.MonkeyPatch, arch: str, task: str
) -> None:
    """With a cache that is always fresh the picture is the exact one."""
    whole_unet = reuse.shallow

    def fresh(unet: Any, latents: Any, timesteps: Any, text: Any, told: Any, kept: Any) -> Any:
        with reuse.watched(unet) as seen:
            unet(latents, timesteps, text, **told)
        assert seen.features is not None
        assert seen.features.shape == kept.shape
        return whole_unet(unet, latents, timesteps, text, told, seen.features)

    monkeypatch.setattr(reuse, "shallow", fresh)
    fields = {"task": task, "model": f"{ARCHS[arch].version}/{arch}", "num_inference_steps": 4}
    exact = draw(keeper, **fields)
    assert (draw(keeper, **fields, reuse=3) == exact).all()


def test_a_picture_that_reuses_is_another_and_the_same_each_time(engine: TorchEngine) -> None:
    exact, once, twice = (draw(engine, **SHARED, reuse=every) for every in (1, 3, 3))
    assert (once != exact).any()
    assert (once == twice).all()


def test_who_reuses_and_who_does_not_share_whole_calls_and_spoil_nothing(
    engine: TorchEngine,
) -> None:
    wanted = {
        "exact": make_request(id="exact", **SHARED),
        "reused": make_request(id="reused", **SHARED, reuse=2),
    }
    alone = {key: run(engine, {key: request})[key] for key, request in wanted.items()}
    calls = Calls(held(engine).unet)
    together = run(engine, wanted)
    assert 4 in calls.rows
    for key, events in together.items():
        assert worst(pixels(last(alone[key])), pixels(last(events))) <= 1
    assert {key: last(events).parameters.reuse for key, events in together.items()} == {
        "exact": None,
        "reused": 2,
    }


def test_nothing_is_kept_of_a_picture_that_is_done(engine: TorchEngine) -> None:
    engine.admit("k", make_request(**SHARED, reuse=2, num_images=2))
    drawing = engine._drawings["k"]
    engine.step()
    assert all(sample.kept is not None for sample in drawing.samples)
    while engine.is_busy():
        engine.step()
    assert all(sample.kept is None for sample in drawing.samples)


# --- what it saves, counted ------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "share"), [("sd1", 0.383), ("sdxl", 0.072)])
def test_a_shallow_call_computes_a_part_of_what_a_whole_one_does(arch: str, share: float) -> None:
    config = ARCHS[arch].unet
    unet = empty_unet(config)  # weights that take no memory: only shapes are computed
    given = (
        torch.empty(2, 4, 64, 64, device="meta"),
        torch.empty(2, device="meta"),
        torch.empty(2, 77, unet.config.cross_attention_dim, device="meta"),
    )
    added = {
        "text_embeds": torch.empty(2, 1280, device="meta"),
        "time_ids": torch.empty(2, 6, device="meta"),
    }
    told = {"added_cond_kwargs": added} if arch == "sdxl" else {}
    with FlopCounterMode(display=False) as whole, reuse.watched(unet) as seen:
        unet(*given, **told)
    assert seen.features is not None
    with FlopCounterMode(display=False) as shallow:
        reuse.shallow(unet, *given, told, seen.features)
    assert shallow.get_total_flops() / whole.get_total_flops() == pytest.approx(share, abs=0.002)
