"""What a LoRA's tensors come to for one layer, by their shapes: before any of them is read.

PURE. A small file can ask for a lot of memory: all kinds but the plain one become a ΔW as large
as the layer's weight, and two vectors multiply out to a matrix of any size. So sizes are known,
and compared with the layer's, first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence

Shape = Sequence[int]
Shapes = Mapping[str, Shape]
BYTES = 4  # of a number on its way


class WrongShape(ValueError):
    """The tensors do not belong to a layer of this shape."""


def kind_of(roles: Container[str]) -> str | None:
    """The role that says that a ΔW of full size is worked out, and how; None: none is."""
    return next((role for role in _PRODUCTS if role in roles), None)


def kept_numbers(weight: Shape, shapes: Shapes) -> int:
    """How many numbers the addition to a layer with this weight will hold.

    Raises WrongShape for what does not come to the weight's shape, LookupError for tensors
    with too few dimensions.
    """
    bias = math.prod(shapes.get("diff_b", (0,)))
    kind = kind_of(shapes)
    if kind is None:
        return bias + sum(math.prod(shapes.get(role, (0,))) for role in ("down", "up", "mid"))
    size = math.prod(weight)
    for product in _PRODUCTS[kind](shapes):
        if (product[0], math.prod(product)) != (weight[0], size):
            raise WrongShape(f"{tuple(product)} for {tuple(weight)}")
    return bias + size


def passing_bytes(weight: Shape, shapes: Shapes) -> int:
    """What main memory holds while the addition is made: the tensors, and what they come to,
    in a few copies.
    """
    read = sum(map(math.prod, shapes.values()))
    return BYTES * (read + (0 if kind_of(shapes) is None else 4 * math.prod(weight)))


def _product(shapes: Shapes, name: str, core: str = "") -> Shape:
    """The shape of `name`_a · `name`_b, or of the two with a core between them."""
    a, b, between = shapes[f"{name}_a"], shapes[f"{name}_b"], shapes.get(core)
    return (a[0], b[1]) if between is None else (a[1], b[1], *between[2:])


def _dora(shapes: Shapes) -> list[Shape]:
    return [(shapes["up"][0], *shapes["down"][1:])]


def _loha(shapes: Shapes) -> list[Shape]:
    factors = [_product(shapes, f"hada_w{i}", f"hada_t{i}") for i in (1, 2)]
    if factors[0] != factors[1]:  # else one would be repeated for every number of the other
        raise WrongShape(f"{tuple(factors[0])} and {tuple(factors[1])}")
    return factors


def _lokr(shapes: Shapes) -> list[Shape]:
    first = shapes.get("lokr_w1") or _product(shapes, "lokr_w1")
    second = shapes.get("lokr_w2") or _product(shapes, "lokr_w2", "lokr_t2")
    return [(first[0] * second[0], math.prod(first[1:]) * math.prod(second[1:]))]


def _full(shapes: Shapes) -> list[Shape]:
    return [shapes["diff"]]


def _ia3(shapes: Shapes) -> list[Shape]:
    return []  # factors of the weight's own rows or columns


# by a role that only this kind has: the shapes of what its tensors multiply out to
_PRODUCTS: dict[str, Callable[[Shapes], list[Shape]]] = {
    "magnitude": _dora,
    "magnitudes": _dora,
    "hada_w1_a": _loha,
    "lokr_w1": _lokr,
    "lokr_w1_a": _lokr,
    "diff": _full,
    "on_input": _ia3,
}
