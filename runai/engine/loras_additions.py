"""What one LoRA adds to one layer, as arithmetic.

Theory of operation. Every kind says how a weight W of the layer changes by ΔW. A plain LoRA
(Hu et al. 2021) has ΔW = scale · up · down of a small rank, and costs least as two small
products on the layer's input: `LowRank`. All others are worked out once, in fp32, to a ΔW of
full size, which is applied to the input beside W: `Delta`. So W is never touched.

| kind | tensors | ΔW |
|---|---|---|
| LoRA, LoCon | down, up (, mid) | scale · up · (mid ·) down, scale = alpha / rank |
| DoRA (Liu et al. 2024) | and a magnitude m | m · (W + ΔW) / ‖W + ΔW‖ − W |
| LoHa (Hyeon-Woo et al. 2022) | hada_w1_a … | scale · (w1_a · w1_b) ∘ (w2_a · w2_b) |
| LoKr (Yeh et al. 2024, LyCORIS) | lokr_w1 … | scale · (w1 ⊗ w2), either may be a product |
| full | diff, diff_b | diff, and diff_b to the bias |
| IA3 (Liu et al. 2022) | weight, on_input | W with its rows or columns scaled by weight |

A request's weight multiplies ΔW, of a DoRA as well: weight 0 is the model as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from runai.engine.loras_shapes import WrongShape, kept_numbers, kind_of

Parts = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class LowRank:
    """scale · up(mid(down(x))): linear, or convolutions of which one has the layer's kernel."""

    down: torch.Tensor
    up: torch.Tensor
    mid: torch.Tensor | None
    scale: float

    @property
    def byte_size(self) -> int:
        return sum(t.nbytes for t in (self.down, self.up, self.mid) if t is not None)

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.scale) and _are_finite(self.down, self.up, self.mid)

    def added(self, layer: Any, given: torch.Tensor, weight: float) -> torch.Tensor:
        """What comes on top of the layer's output for this input."""
        if self.down.ndim == 2:
            said = F.linear(F.linear(given, self.down), self.up)
        elif self.mid is None:
            said = F.conv2d(_convolved(layer, given, self.down), self.up)
        else:
            said = F.conv2d(_convolved(layer, F.conv2d(given, self.down), self.mid), self.up)
        return said * (self.scale * weight)


@dataclass(frozen=True, eq=False)
class Delta:
    """ΔW in full, and a change of the bias; either may be None."""

    change: torch.Tensor | None
    bias: torch.Tensor | None

    @property
    def byte_size(self) -> int:
        return sum(t.nbytes for t in (self.change, self.bias) if t is not None)

    @property
    def is_finite(self) -> bool:
        return _are_finite(self.change, self.bias)

    def added(self, layer: Any, given: torch.Tensor, weight: float) -> torch.Tensor:
        """What comes on top of the layer's output for this input."""
        if self.change is None:
            bias: Any = self.bias
            return weight * (bias if layer.weight.ndim == 2 else bias[:, None, None])
        if self.change.ndim == 2:
            return weight * F.linear(given, self.change, self.bias)
        return weight * _convolved(layer, given, self.change, self.bias)


Addition = LowRank | Delta


def _are_finite(*tensors: torch.Tensor | None) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors if t is not None)


def _convolved(
    layer: Any, given: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    return F.conv2d(given, kernel, bias, layer.stride, layer.padding, layer.dilation)


def make(layer: Any, parts: Parts, alpha: float | None, place: Any) -> Addition:
    """The addition of one layer, in the place's dtype and on its device.

    `parts`: tensors by role (see `loras_files`); `alpha`: where no tensor says it, None for
    the rank. Raises WrongShape if they do not fit the layer.
    """
    kept_numbers(layer.weight.shape, {role: tensor.shape for role, tensor in parts.items()})
    values = {role: tensor.float() for role, tensor in parts.items()}
    if "magnitudes" in values:
        values["magnitude"] = values.pop("magnitudes").flatten()
    if "alpha" in values:
        alpha = float(values["alpha"])
    if "down" in values and kind_of(values) is None:
        return _low_rank(layer, values, alpha, place)
    change = _change(layer, values, alpha)
    bias = values.get("diff_b")
    return Delta(
        None if change is None else _placed(change.reshape(layer.weight.shape), place),
        None if bias is None else _placed(bias, place),
    )


def _placed(tensor: torch.Tensor, place: Any) -> torch.Tensor:
    return tensor.to(place.device, place.dtype).contiguous()


def _low_rank(layer: Any, values: Parts, alpha: float | None, place: Any) -> LowRank:
    down, up, mid = values["down"], values["up"], values.get("mid")
    dimensions = (1,) * (layer.weight.ndim - 2)
    if mid is not None or math.prod(down.shape[2:]) == 1:
        down = down.reshape(*down.shape[:2], *dimensions)
    up = up.reshape(*up.shape[:2], *dimensions)
    placed = (_placed(down, place), _placed(up, place), mid if mid is None else _placed(mid, place))
    return LowRank(*placed, _scale(alpha, len(down)))


def _scale(alpha: float | None, rank: int) -> float:
    return 1.0 if alpha is None else alpha / rank


def _change(layer: Any, values: Parts, alpha: float | None) -> torch.Tensor | None:
    """ΔW, fp32, on the processor."""
    role = kind_of(values)
    return None if role is None else _KINDS[role](layer, values, alpha)


def _base(layer: Any) -> torch.Tensor:
    weight: torch.Tensor = layer.weight.detach().float().cpu()
    return weight


def _dora(layer: Any, values: Parts, alpha: float | None) -> torch.Tensor:
    down, up, base = values["down"], values["up"], _base(layer)
    product = up.flatten(1) @ down.flatten(1)
    whole = base + _scale(alpha, len(down)) * product.reshape(base.shape)
    magnitude = values["magnitude"]
    per_input = magnitude.ndim > 1 and len(magnitude) == 1 and magnitude.shape[1] == base.shape[1]
    if per_input:
        dims = [0, *range(2, base.ndim)]
        magnitude = magnitude.reshape(1, -1, *(1,) * (base.ndim - 2))
    else:
        dims = list(range(1, base.ndim))
        magnitude = magnitude.reshape(-1, *(1,) * (base.ndim - 1))
    return magnitude * whole / torch.linalg.vector_norm(whole, dim=dims, keepdim=True) - base


def _loha(layer: Any, values: Parts, alpha: float | None) -> torch.Tensor:
    factors = []
    for i in (1, 2):
        a, b = values[f"hada_w{i}_a"], values[f"hada_w{i}_b"]
        if (core := values.get(f"hada_t{i}")) is not None:
            factors.append(torch.einsum("rsxy,ro,si->oixy", core, a, b))
        else:
            factors.append(a @ b)
    scale = _scale(alpha, len(values["hada_w1_b"])) * float(values.get("scalar", 1.0))
    return scale * factors[0] * factors[1]


def _lokr(layer: Any, values: Parts, alpha: float | None) -> torch.Tensor:
    first = values.get("lokr_w1")
    rank = None
    if first is None:
        first, rank = values["lokr_w1_a"] @ values["lokr_w1_b"], len(values["lokr_w1_b"])
    second = values.get("lokr_w2")
    if second is None:
        a, b = values["lokr_w2_a"], values["lokr_w2_b"]
        rank = len(b)
        if (core := values.get("lokr_t2")) is not None:
            second = torch.einsum("rsxy,ro,si->oixy", core, a, b)
        else:
            second = a @ b
    second = second.contiguous()
    first = first.reshape(*first.shape, *(1,) * (second.ndim - 2))
    # where neither is a product there is no rank, and alpha says nothing
    scale = 1.0 if rank is None else _scale(alpha, rank)
    return scale * float(values.get("scalar", 1.0)) * torch.kron(first, second)


def _full(layer: Any, values: Parts, alpha: float | None) -> torch.Tensor:
    return values["diff"]


def _ia3(layer: Any, values: Parts, alpha: float | None) -> torch.Tensor:
    base, factors = _base(layer), values["weight"].flatten()
    on_input = bool(values["on_input"])
    if len(factors) != base.shape[int(on_input)]:
        raise WrongShape(f"{len(factors)} factors for {tuple(base.shape)}")
    shape = (1, -1) if on_input else (-1, 1)
    return base * factors.reshape(*shape, *(1,) * (base.ndim - 2))


# by the role that says so, see `loras_shapes`
_KINDS: dict[str, Callable[[Any, Parts, float | None], torch.Tensor]] = {
    "magnitude": _dora,
    "magnitudes": _dora,
    "hada_w1_a": _loha,
    "lokr_w1": _lokr,
    "lokr_w1_a": _lokr,
    "diff": _full,
    "on_input": _ia3,
}
