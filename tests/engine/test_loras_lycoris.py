"""What LyCORIS files add, against PEFT's own layers, and against changed weights."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import peft
import pytest
import torch
from torch import nn

from runai.engine import loras_files
from runai.engine.devices import Place
from runai.engine.loras_additions import Delta, make
from runai.engine.loras_shapes import WrongShape, kept_numbers, passing_bytes

PLACE = Place(torch.device("cpu"), torch.float32)
CLOSE = 1e-5
Parts = dict[str, torch.Tensor]
LAYERS = {
    "linear": lambda: nn.Linear(48, 80),
    "projection": lambda: nn.Conv2d(32, 48, 1),
    "convolution": lambda: nn.Conv2d(32, 48, 3, stride=2, padding=1),
}
CONFIGS = {
    "LoRA": lambda: peft.LoraConfig(r=4, lora_alpha=2, init_lora_weights=False),
    "DoRA": lambda: peft.LoraConfig(r=4, lora_alpha=2, init_lora_weights=False, use_dora=True),
    "LoHa": lambda: peft.LoHaConfig(r=4, alpha=2, init_weights=False),
    "LoHa, core": lambda: peft.LoHaConfig(
        r=4, alpha=2, init_weights=False, use_effective_conv2d=True
    ),
    # of a rank as low as that one factor at least is a product: PEFT scales others differently
    "LoKr": lambda: peft.LoKrConfig(r=2, alpha=3, init_weights=False),
    "LoKr, both products": lambda: peft.LoKrConfig(
        r=1, alpha=3, init_weights=False, decompose_both=True
    ),
    "LoKr, core": lambda: peft.LoKrConfig(
        r=2, alpha=3, init_weights=False, use_effective_conv2d=True
    ),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


def question(layer: Any) -> torch.Tensor:
    if isinstance(layer, nn.Linear):
        return torch.randn(2, 5, layer.in_features)
    return torch.randn(2, layer.in_channels, 9, 9)


def answer(layer: Any, parts: Parts, given: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    """The layer's output with what a file of these parts adds."""
    said: torch.Tensor = layer(given) + make(layer, parts, None, PLACE).added(layer, given, weight)
    return said


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("where", LAYERS)
@torch.no_grad()
def test_a_layer_says_what_peft_has_it_say(where: str, kind: str) -> None:
    layer = LAYERS[where]()
    config = CONFIGS[kind]()
    config.target_modules = ["0"]
    wrapped = peft.get_peft_model(nn.Sequential(deepcopy(layer)), config)
    for name, parameter in wrapped.named_parameters():
        if "hada_" in name or "lokr_" in name or "magnitude" in name:
            parameter *= 2 / parameter.std()  # or it would hardly show
    stored = peft.get_peft_model_state_dict(wrapped)
    [parts] = loras_files.sort(stored, {}, "a file").layers.values()
    alpha = config.lora_alpha if isinstance(config, peft.LoraConfig) else config.alpha
    parts["alpha"] = torch.tensor(float(alpha))
    given = question(layer)
    expected = wrapped(given)
    got = answer(layer, parts, given)
    assert float((got - layer(given)).abs().max()) > 0.1
    assert float((got - expected).abs().max()) < CLOSE * float(expected.abs().max())


@torch.no_grad()
def test_a_core_between_down_and_up_is_part_of_the_product() -> None:
    layer = LAYERS["convolution"]()
    down, mid, up = torch.randn(3, 32, 1, 1), torch.randn(3, 3, 3, 3), torch.randn(48, 3, 1, 1)
    changed = deepcopy(layer)
    merged = torch.zeros_like(layer.weight)
    for r in range(3):
        for s in range(3):
            merged += (up[:, r, None] * mid[r, s]) * down[None, s]
    changed.weight += 0.5 * 2.0 / 3 * merged
    given = question(layer)
    parts = {"down": down, "mid": mid, "up": up, "alpha": torch.tensor(2.0)}
    got = answer(layer, parts, given, 0.5)
    assert float((got - changed(given)).abs().max()) < CLOSE * float(got.abs().max())


def _full(layer: Any) -> tuple[Parts, Any]:
    changed = deepcopy(layer)
    parts = {"diff": torch.randn_like(layer.weight), "diff_b": torch.randn_like(layer.bias)}
    changed.weight += 0.5 * parts["diff"]
    changed.bias += 0.5 * parts["diff_b"]
    return parts, changed


def _bias(layer: Any) -> tuple[Parts, Any]:
    changed = deepcopy(layer)
    parts = {"diff_b": torch.randn_like(layer.bias)}
    changed.bias += 0.5 * parts["diff_b"]
    return parts, changed


def _ia3_out(layer: Any) -> tuple[Parts, Any]:
    changed = deepcopy(layer)
    factors = torch.randn(len(layer.weight))
    for row, factor in zip(changed.weight, factors, strict=True):
        row *= 1 + 0.5 * factor
    return {"weight": factors[:, None], "on_input": torch.tensor(False)}, changed


def _ia3_in(layer: Any) -> tuple[Parts, Any]:
    changed = deepcopy(layer)
    factors = torch.randn(layer.weight.shape[1])
    for column, factor in enumerate(factors):
        changed.weight[:, column] *= 1 + 0.5 * factor
    return {"weight": factors, "on_input": torch.tensor(True)}, changed


def _dora_in(layer: Any) -> tuple[Parts, Any]:
    """Magnitudes for the inputs, kohya's first form."""
    changed = deepcopy(layer)
    rows, columns = layer.weight.shape[:2]
    rest = layer.weight.shape[2:]
    down, up = torch.randn(2, columns, *rest), torch.randn(rows, 2, *(1,) * len(rest))
    sizes = 0.5 + torch.rand(1, columns, *(1,) * len(rest))
    whole = layer.weight + torch.tensordot(up.flatten(1), down, dims=1)
    for column in range(columns):
        norm = whole[:, column].square().sum().sqrt()
        full = sizes[0, column] * whole[:, column] / norm
        changed.weight[:, column] += 0.5 * (full - layer.weight[:, column])
    return {"down": down, "up": up, "magnitude": sizes}, changed


CHANGES: dict[str, Callable[[Any], tuple[Parts, Any]]] = {
    "full difference": _full,
    "difference of the bias": _bias,
    "IA3 on outputs": _ia3_out,
    "IA3 on inputs": _ia3_in,
    "DoRA on inputs": _dora_in,
}


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("where", LAYERS)
@torch.no_grad()
def test_a_layer_says_what_it_says_with_changed_weights(where: str, kind: str) -> None:
    layer = LAYERS[where]()
    parts, changed = CHANGES[kind](layer)
    given = question(layer)
    got, expected = answer(layer, parts, given, 0.5), changed(given)
    assert float((expected - layer(given)).abs().max()) > 0.1
    assert float((got - expected).abs().max()) < CLOSE * float(expected.abs().max())


def test_a_linear_layer_takes_what_was_trained_as_a_convolution() -> None:
    layer = nn.Linear(12, 20)
    down, up = torch.randn(3, 12, 1, 1), torch.randn(20, 3, 1, 1)
    given = question(layer)
    flat = answer(layer, {"down": down[..., 0, 0], "up": up[..., 0, 0]}, given)
    assert torch.equal(answer(layer, {"down": down, "up": up}, given), flat)


WRONG = {
    "too wide": {"down": torch.ones(2, 13), "up": torch.ones(20, 2)},
    "turned round": {"diff": torch.ones(12, 20)},
    "a kernel too many": {"down": torch.ones(2, 12, 3, 3), "up": torch.ones(20, 2, 1, 1)},
    "a bias too long": {"diff_b": torch.ones(21)},
    "factors too many": {"weight": torch.ones(21), "on_input": torch.tensor(False)},
    "a DoRA too wide": {"down": torch.ones(2, 13), "up": torch.ones(20, 2), "magnitude":
                        torch.ones(20, 1)},
    # what follows is small, and would come to far more than the layer is
    "a LoHa of two vectors": {"hada_w1_a": torch.ones(10**5, 1), "hada_w1_b": torch.ones(1, 10**5),
                              "hada_w2_a": torch.ones(1, 1), "hada_w2_b": torch.ones(1, 1)},
    "a LoHa of a column and a row": {
        "hada_w1_a": torch.ones(20 * 12, 1), "hada_w1_b": torch.ones(1, 1),
        "hada_w2_a": torch.ones(1, 1), "hada_w2_b": torch.ones(1, 20 * 12)},
    "a LoKr of two vectors": {"lokr_w1": torch.ones(10**5, 1), "lokr_w2": torch.ones(1, 10**5)},
    "a DoRA of two vectors": {"down": torch.ones(1, 10**5), "up": torch.ones(10**5, 1),
                              "magnitude": torch.ones(20, 1)},
    # what follows would be found out at the first step, or never
    "ranks that differ": {"down": torch.ones(2, 12), "up": torch.ones(20, 3)},
    "no rank at all": {"down": torch.ones(0, 12), "up": torch.ones(20, 0),
                       "alpha": torch.tensor(1.0)},
    "nothing but a number": {"down": torch.tensor(1.0), "up": torch.tensor(1.0)},
    "two alphas": {"down": torch.ones(2, 12), "up": torch.ones(20, 2), "alpha": torch.ones(2)},
    "a core in a linear layer": {"down": torch.ones(2, 12), "up": torch.ones(20, 2),
                                 "mid": torch.ones(2, 2)},
    "a DoRA with a core": {"down": torch.ones(2, 12), "up": torch.ones(20, 2),
                           "mid": torch.ones(2, 2, 1, 1), "magnitude": torch.ones(20, 1)},
    "a DoRA of one magnitude": {"down": torch.ones(2, 12), "up": torch.ones(20, 2),
                                "magnitude": torch.ones(1)},
    "LoHa ranks that differ": {"hada_w1_a": torch.ones(20, 2), "hada_w1_b": torch.ones(3, 12),
                               "hada_w2_a": torch.ones(20, 2), "hada_w2_b": torch.ones(2, 12)},
    "half a LoKr": {"lokr_w1": torch.ones(4, 4)},
}  # fmt: skip


@pytest.mark.parametrize("parts", WRONG.values(), ids=list(WRONG))
def test_parts_of_another_shape_are_refused(parts: Parts) -> None:
    shapes = {role: tensor.shape for role, tensor in parts.items()}
    with pytest.raises(WrongShape):
        kept_numbers((20, 12), shapes)
    with pytest.raises(WrongShape):
        make(nn.Linear(12, 20), parts, None, PLACE)


@pytest.mark.parametrize(
    "mid", [(3, 3, 1, 1), (3, 4, 3, 3), (4, 3, 3, 3), (3, 3)], ids=lambda mid: str(mid)
)
def test_a_core_of_another_shape_is_refused(mid: tuple[int, ...]) -> None:
    shapes = {"down": (3, 32, 1, 1), "mid": mid, "up": (48, 3, 1, 1)}
    with pytest.raises(WrongShape):
        kept_numbers((48, 32, 3, 3), shapes)


def test_what_lies_between_a_core_and_its_product_is_counted() -> None:
    """A core with a long side is small, and times the layer's outputs it is not."""
    weight, long = (320, 4, 3, 3), 10**5
    shapes = {"hada_w1_a": (1, 320), "hada_w1_b": (long, 4), "hada_t1": (1, long, 3, 3),
              "hada_w2_a": (1, 320), "hada_w2_b": (1, 4), "hada_t2": (1, 1, 3, 3)}  # fmt: skip
    kept_numbers(weight, shapes)
    assert passing_bytes(weight, shapes) > 4 * long * 320 * 9


@pytest.mark.parametrize("kind", [*CHANGES, *CONFIGS])
@pytest.mark.parametrize("where", LAYERS)
@torch.no_grad()
def test_what_an_addition_takes_is_told_from_shapes_alone(where: str, kind: str) -> None:
    layer = LAYERS[where]()
    if kind in CHANGES:
        parts = CHANGES[kind](layer)[0]
    else:
        config = CONFIGS[kind]()
        config.target_modules = ["0"]
        stored = peft.get_peft_model_state_dict(peft.get_peft_model(nn.Sequential(layer), config))
        [parts] = loras_files.sort(stored, {}, "a file").layers.values()
    shapes = {role: tensor.shape for role, tensor in parts.items()}
    made = make(layer, parts, None, PLACE)
    assert made.byte_size == 4 * kept_numbers(layer.weight.shape, shapes)
    assert passing_bytes(layer.weight.shape, shapes) >= sum(t.nbytes for t in parts.values())


def test_what_is_added_has_the_numbers_of_the_place() -> None:
    half = Place(torch.device("cpu"), torch.bfloat16)
    layer = nn.Linear(12, 20, dtype=torch.bfloat16)
    made = make(layer, {"diff": torch.randn(20, 12)}, None, half)
    assert isinstance(made, Delta)
    assert made.change is not None
    assert made.change.dtype == torch.bfloat16
    assert made.byte_size == 20 * 12 * 2
