"""Feature reuse: what a shallow call computes, and who may share one.

A shallow call that reuses what a call with the same inputs captured must say the same, bit for
bit: so nothing that the outer layers read is forgotten.
"""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from runai.engine import reuse
from runai.engine.archs import ARCHS

ROWS = 3


def asked(unet: Any, side: int = 8) -> dict[str, Any]:
    """Arguments of a call, with everything that this UNet reads."""
    config = unet.config
    asked: dict[str, Any] = {
        "sample": torch.randn(ROWS, config.in_channels, side, side),
        "timestep": torch.tensor([900.0, 500.0, 20.0]),
        "encoder_hidden_states": torch.randn(ROWS, 77, config.cross_attention_dim),
    }
    told = {**tiny._told(config)}
    if "added_cond_kwargs" in told:
        told["added_cond_kwargs"] = {k: v[:ROWS] for k, v in told["added_cond_kwargs"].items()}
    return {**asked, **{k: v if isinstance(v, dict) else v[:ROWS] for k, v in told.items()}}


def said(unet: Any, given: dict[str, Any]) -> torch.Tensor:
    answer: torch.Tensor = unet(**given, return_dict=False)[0]
    return answer


@pytest.fixture(params=tiny.MODELS)
def unet(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(1)
    return tiny.make_unet(tiny.unet_config(**tiny.MODELS[request.param].unet)).eval()


@pytest.mark.parametrize("side", [8, 9])
@torch.inference_mode()
def test_with_fresh_features_a_shallow_call_says_the_same_to_the_bit(unet: Any, side: int) -> None:
    given = asked(unet, side)
    exact = said(unet, given)
    with reuse.captured(unet) as deep:
        assert torch.equal(said(unet, given), exact)
    with reuse.reused(unet, deep[0]):
        assert torch.equal(said(unet, given), exact)
    with reuse.reused(unet, torch.zeros_like(deep[0])):
        assert not torch.allclose(said(unet, given), exact)
    assert torch.equal(said(unet, given), exact), "and nothing of it is left behind"


@torch.inference_mode()
def test_a_shallow_call_reads_its_own_latents_time_and_text(unet: Any) -> None:
    given = asked(unet)
    with reuse.captured(unet) as deep:
        before = said(unet, given)
    texts = given["encoder_hidden_states"] + 1
    for other in ({"sample": given["sample"] + 1}, {"timestep": given["timestep"] / 2}):
        with reuse.reused(unet, deep[0]):
            assert not torch.equal(said(unet, {**given, **other}), before)
    reads = bool(getattr(unet.up_blocks[-1], "attentions", None))
    with reuse.reused(unet, deep[0]):
        same = torch.equal(said(unet, {**given, "encoder_hidden_states": texts}), before)
    assert same != reads


@torch.inference_mode()
def test_after_a_call_that_failed_the_network_is_as_it_was(unet: Any) -> None:
    given = asked(unet)
    exact = said(unet, given)
    with pytest.raises(RuntimeError), reuse.reused(unet, torch.zeros(1, 1, 1, 1)):
        said(unet, given)
    assert torch.equal(said(unet, given), exact)
    assert not any("forward" in vars(module) for module in unet.modules())


# --- how much less it is -----------------------------------------------------------------


@pytest.mark.parametrize(("arch", "part"), [("sd1", 0.079), ("sd2", 0.079), ("sdxl", 0.0145)])
@torch.inference_mode()
def test_a_shallow_call_takes_so_much_of_the_arithmetic_of_a_full_one(
    arch: str, part: float
) -> None:
    config = ARCHS[arch].unet
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config).eval()
        side = unet.config.sample_size
        given = {
            "sample": torch.randn(1, 4, side, side),
            "timestep": torch.tensor([5.0]),
            "encoder_hidden_states": torch.randn(1, 77, config["cross_attention_dim"]),
        }
        if ARCHS[arch].added == "sizes":
            sizes = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.randn(1, 6)}
            given["added_cond_kwargs"] = sizes
    with FlopCounterMode(display=False) as full, reuse.captured(unet) as deep:
        said(unet, given)
    with FlopCounterMode(display=False) as shallow, reuse.reused(unet, deep[0]):
        said(unet, given)
    ratio = shallow.get_total_flops() / full.get_total_flops()
    assert ratio == pytest.approx(part, rel=0.05)
