"""LoRA files: from tensor names to what each layer of a model gets, before any is read.

A name is a layer's (`loras_names`), then a suffix that says the tensor's role in what is added
(`loras_additions`). All trainers' suffixes are one table; none needs to be told apart from the
others beforehand. What is in no table is counted, not guessed: the caller says how much of a
file was not used. Kinds of which nothing here knows the arithmetic are refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic_core import from_json

from runai.engine.loras_names import flat, part_and_layer
from runai.engine.loras_roles import FOREIGN, ROLES
from runai.engine.loras_shapes import adds
from runai.errors import ModelBroken, ModelUnsupported

T = TypeVar("T")  # a tensor, or where one is
Layer = tuple[str, str]  # part of the model, flat name
_ADAPTER = "lora_adapter_metadata"
_PREFIXES = {"unet": "unet", "text_encoder": "text1", "text_encoder_2": "text2"}

_BY_LENGTH = sorted(ROLES, key=len, reverse=True)
# what a role cannot do without
_NEEDS = {
    "down": {"up"},
    "up": {"down"},
    "mid": {"down"},
    "magnitude": {"down"},
    "magnitudes": {"down"},
    "alpha": set(),
    "weight": {"on_input"},
    "on_input": {"weight"},
    "hada_w1_a": {"hada_w1_b", "hada_w2_a", "hada_w2_b"},
    "lokr_w1_a": {"lokr_w1_b"},
    "lokr_w2_a": {"lokr_w2_b"},
}


@dataclass(frozen=True)
class Content(Generic[T]):
    """What a file holds, by layer and role. `unknown`: names that no table knows."""

    layers: dict[Layer, dict[str, T]]
    unknown: list[str] = field(default_factory=list)
    alphas: dict[str, _Alphas] = field(default_factory=dict)

    def alpha_of(self, layer: Layer) -> float | None:
        """PEFT's alpha, which it writes beside the tensors; None where nothing says one."""
        part, name = layer
        said = self.alphas.get(part)
        if said is None:
            return None
        words = name.split("_")
        ends = ("_".join(words[start:]) for start in range(len(words)))
        found = [said.by_end[end] for end in ends if end in said.by_end]
        return min(found)[1] if found else said.rest


@dataclass(frozen=True)
class _Alphas:
    """Of one part of a model: by the end of a layer's flat name, and of the rest.

    With each alpha goes its place in the file: of several that fit, the first counts.
    """

    by_end: dict[str, tuple[int, float]]
    rest: float | None


def sort(rows: Mapping[str, T], metadata: Mapping[str, str], name: str) -> Content[T]:
    """Sort a file's tensors by layer and role. Raises ModelUnsupported for kinds not known,
    ModelBroken for alphas that are no numbers.

    `name`: what the user calls the file.
    """
    layers: dict[Layer, dict[str, T]] = {}
    unknown: list[str] = []
    for key, row in rows.items():
        suffix = next((s for s in _BY_LENGTH if key.endswith(s)), None)
        if suffix is None:
            _refuse_foreign(key, name)
            unknown.append(key)
            continue
        layers.setdefault(part_and_layer(key.removesuffix(suffix)), {})[ROLES[suffix]] = row
    whole = {layer: parts for layer, parts in layers.items() if _is_whole(parts)}
    unknown += [f"{part} {n}" for (part, n), parts in layers.items() if (part, n) not in whole]
    return Content(whole, unknown, _alphas(metadata, name))


def _is_whole(parts: Mapping[str, T]) -> bool:
    """Whether nothing is missing and it is more than an alpha."""
    return adds(parts) and all(_NEEDS.get(role, set()) <= set(parts) for role in parts)


def _refuse_foreign(key: str, name: str) -> None:
    for suffix, kind in FOREIGN.items():
        if key.endswith(suffix):
            raise ModelUnsupported(
                f"{name} is of the kind {kind}, which is not supported.",
                hint="Use a LoRA, LoCon, DoRA, LoHa, LoKr, IA3 or full difference.",
                field="loras",
            )


def _alphas(metadata: Mapping[str, str], name: str) -> dict[str, _Alphas]:
    """lora_alpha and alpha_pattern by part of the model, from diffusers' metadata."""
    try:
        said = from_json(metadata.get(_ADAPTER, "{}"))
        return {part: _alphas_of(said, prefix) for prefix, part in _PREFIXES.items()}
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ModelBroken(
            f"The LoRA {name} has alphas that are no numbers, in {_ADAPTER}.", field="loras"
        ) from error


def _alphas_of(said: Mapping[str, Any], prefix: str) -> _Alphas:
    """Raises what values of odd types raise."""
    patterns = said.get(f"{prefix}.alpha_pattern") or {}
    by_end: dict[str, tuple[int, float]] = {}
    for place, (pattern, alpha) in enumerate(patterns.items()):
        by_end.setdefault(flat(pattern), (place, _number(alpha)))
    rest = said.get(f"{prefix}.lora_alpha")
    return _Alphas(by_end, None if rest is None else _number(rest))


def _number(said: object) -> float:
    if not isinstance(said, int | float) or not math.isfinite(said):
        raise ValueError("not a finite number")
    return float(said)
