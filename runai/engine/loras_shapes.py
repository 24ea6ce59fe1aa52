"""What a LoRA's tensors come to for one layer, by their shapes: before any of them is read.

PURE. A small file can ask for a lot of memory: all kinds but the plain one become a ΔW as large
as the layer's weight, and two vectors multiply out to a matrix of any size. So sizes are known,
and compared with the layer's, first; and what does not multiply is found out before a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence

Shape = Sequence[int]
Shapes = Mapping[str, Shape]
BYTES = 4  # of a number on its way
_SINGLE = ("alpha", "scalar", "on_input")  # one number each


class WrongShape(ValueError):
    """The tensors do not belong to a layer of this shape."""


def kind_of(roles: Container[str]) -> str | None:
    """The role that says that a ΔW of full size is worked out, and how; None: none is."""
    return next((role for role in _PRODUCTS if role in roles), None)


def adds(roles: Container[str]) -> bool:
    """Whether tensors of these roles change a layer at all, and do not only say how much."""
    return "down" in roles or "diff_b" in roles or kind_of(roles) is not None


def kept_numbers(weight: Shape, shapes: Shapes) -> int:
    """How many numbers the addition to a layer with this weight will hold.

    Raises WrongShape for what does not come to the weight's shape.
    """
    _check_sides(weight, shapes)
    bias = math.prod(shapes.get("diff_b", (0,)))
    kind = kind_of(shapes)
    if kind is None and "down" in shapes:
        _check_plain(weight, shapes)
        return bias + sum(math.prod(shapes.get(role, (0,))) for role in ("down", "up", "mid"))
    if kind is None:
        return bias
    size = math.prod(weight)
    for product in _PRODUCTS[kind](weight, shapes):
        if (product[0], math.prod(product)) != (weight[0], size):
            raise WrongShape(f"{tuple(product)} for {tuple(weight)}")
    return bias + size


def passing_bytes(weight: Shape, shapes: Shapes) -> int:
    """What main memory holds while the addition is made: the tensors, and what they come to,
    in a few copies.
    """
    read = sum(map(math.prod, shapes.values()))
    between = sum(
        shapes[outputs][1] * math.prod(shapes[core][1:])
        for core, outputs in _CORES.items()
        if core in shapes
    )
    full = 0 if kind_of(shapes) is None else 4 * math.prod(weight)
    return BYTES * (read + between + full)


def _check_sides(weight: Shape, shapes: Shapes) -> None:
    """What holds for every kind."""
    for role, shape in shapes.items():
        if 0 in shape:
            raise WrongShape(f"{role} is empty")
        if role in _SINGLE and math.prod(shape) != 1:
            raise WrongShape(f"{role} is not one number")
    bias = shapes.get("diff_b")
    if bias is not None and tuple(bias) != tuple(weight[:1]):
        raise WrongShape(f"a bias of {tuple(bias)}")


def _check_plain(weight: Shape, shapes: Shapes) -> None:
    """up · (mid ·) down, of which one has the layer's kernel.

    The projections around attention are 1 × 1 convolutions in some models, linear in others.
    """
    down, up, mid = shapes["down"], shapes["up"], shapes.get("mid")
    _check_factors(up, down if mid is None else mid)
    if mid is not None:
        _check_factors(mid, down)
        if len(weight) < 4 or len(mid) < 4 or math.prod(down[2:]) != 1:
            raise WrongShape(f"a core of {tuple(mid)} for {tuple(weight)}")
    kernel = (down if mid is None else mid)[2:]
    shape = (up[0], down[1], *kernel)
    if _without_ones(shape) != _without_ones(weight) or math.prod(up[2:]) != 1:
        raise WrongShape(f"{shape} for {tuple(weight)}")


def _without_ones(shape: Shape) -> Shape:
    return *shape[:2], *(side for side in shape[2:] if side > 1)


def _check_factors(left: Shape, right: Shape) -> None:
    """That two tensors multiply: the left one's inputs are the right one's outputs."""
    if min(len(left), len(right)) < 2 or left[1] != right[0]:
        raise WrongShape(f"{tuple(left)} times {tuple(right)}")


def _product(shapes: Shapes, name: str, core: str = "") -> Shape:
    """The shape of `name`_a · `name`_b, or of the two with a core between them."""
    a, b = _flat(shapes, f"{name}_a"), _flat(shapes, f"{name}_b")
    between = shapes.get(core)
    if between is None:
        _check_factors(a, b)
        return a[0], b[1]
    if len(between) != 4 or tuple(between[:2]) != (a[0], b[0]):
        raise WrongShape(f"a core of {tuple(between)} between {tuple(a)} and {tuple(b)}")
    return a[1], b[1], *between[2:]


def _flat(shapes: Shapes, role: str) -> Shape:
    shape = shapes.get(role, ())
    if len(shape) != 2:
        raise WrongShape(f"{role} of {tuple(shape)}")
    return shape


def _dora(weight: Shape, shapes: Shapes) -> list[Shape]:
    down, up, magnitude = shapes["down"], shapes["up"], shapes.get("magnitude", ())
    _check_factors(up, down)
    along_inputs = len(magnitude) > 1 and tuple(magnitude[:2]) == (1, weight[1])
    sides = weight[1] if along_inputs else weight[0]
    if math.prod(shapes.get("magnitudes", magnitude)) != sides:
        raise WrongShape(f"magnitudes for {tuple(weight)}")
    if "mid" in shapes or math.prod(up[2:]) != 1:
        raise WrongShape("a core, or a kernel in the wrong place")
    return [(up[0], *down[1:])]


def _loha(weight: Shape, shapes: Shapes) -> list[Shape]:
    factors = [_product(shapes, f"hada_w{i}", f"hada_t{i}") for i in (1, 2)]
    if factors[0] != factors[1]:  # else one would be repeated for every number of the other
        raise WrongShape(f"{tuple(factors[0])} and {tuple(factors[1])}")
    return factors


def _lokr(weight: Shape, shapes: Shapes) -> list[Shape]:
    whole = "lokr_w1" in shapes
    first = _flat(shapes, "lokr_w1") if whole else _product(shapes, "lokr_w1")
    second = shapes.get("lokr_w2") or _product(shapes, "lokr_w2", "lokr_t2")
    if len(second) < 2:
        raise WrongShape(f"lokr_w2 of {tuple(second)}")
    return [(first[0] * second[0], math.prod(first[1:]) * math.prod(second[1:]))]


def _full(weight: Shape, shapes: Shapes) -> list[Shape]:
    if not shapes["diff"]:
        raise WrongShape("a difference of one number")
    return [shapes["diff"]]


def _ia3(weight: Shape, shapes: Shapes) -> list[Shape]:
    """No product: factors of the weight's own rows or columns."""
    factors = math.prod(shapes["weight"])
    if factors not in weight[:2]:
        raise WrongShape(f"{factors} factors for {tuple(weight)}")
    return []


# a core, and the factor that it is multiplied by first: what comes of that is in between
_CORES = {"hada_t1": "hada_w1_a", "hada_t2": "hada_w2_a", "lokr_t2": "lokr_w2_a"}
# by a role that only this kind has: the shapes of what its tensors multiply out to
_PRODUCTS: dict[str, Callable[[Shape, Shapes], list[Shape]]] = {
    "magnitude": _dora,
    "magnitudes": _dora,
    "hada_w1_a": _loha,
    "lokr_w1": _lokr,
    "lokr_w1_a": _lokr,
    "diff": _full,
    "on_input": _ia3,
}
