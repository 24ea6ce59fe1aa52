"""LoRA files: from tensor names to what each layer of a model gets, before any is read.

A name is a layer's (`loras_names`), then a suffix that says the tensor's role in what is added
(`loras_additions`). All trainers' suffixes are one table; none needs to be told apart from the
others beforehand. What is in no table is counted, not guessed: the caller says how much of a
file was not used. Kinds of which nothing here knows the arithmetic are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from runai.engine.loras_names import flat, part_and_layer
from runai.engine.loras_roles import FOREIGN, ROLES
from runai.errors import ModelUnsupported

T = TypeVar("T")  # a tensor, or where one is
Layer = tuple[str, str]  # part of the model, flat name
_ADAPTER = "lora_adapter_metadata"

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
    alphas: dict[str, Any] = field(default_factory=dict)

    def alpha_of(self, layer: Layer) -> float | None:
        """PEFT's alpha, which it writes beside the tensors; None where nothing says one."""
        part, name = layer
        said = self.alphas.get(part, {})
        for pattern, alpha in said.get("alpha_pattern", {}).items():
            if f"_{name}".endswith(f"_{flat(pattern)}"):
                return float(alpha)
        return said.get("lora_alpha")


def sort(rows: Mapping[str, T], metadata: Mapping[str, str], name: str) -> Content[T]:
    """Sort a file's tensors by layer and role. Raises ModelUnsupported for kinds not known.

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
    return Content(whole, unknown, _alphas(metadata))


def _is_whole(parts: Mapping[str, T]) -> bool:
    """Whether nothing is missing and it is more than an alpha."""
    return set(parts) != {"alpha"} and all(_NEEDS.get(role, set()) <= set(parts) for role in parts)


def _refuse_foreign(key: str, name: str) -> None:
    for suffix, kind in FOREIGN.items():
        if key.endswith(suffix):
            raise ModelUnsupported(
                f"{name} is of the kind {kind}, which is not supported.",
                hint="Use a LoRA, LoCon, DoRA, LoHa, LoKr, IA3 or full difference.",
                field="loras",
            )


def _alphas(metadata: Mapping[str, str]) -> dict[str, Any]:
    """lora_alpha and alpha_pattern by part of the model, from diffusers' metadata."""
    try:
        said = json.loads(metadata.get(_ADAPTER, "{}"))
        rows = {key: value for key, value in said.items() if "alpha" in key}
    except (ValueError, AttributeError):  # no JSON object: then it says nothing
        return {}
    found: dict[str, Any] = {}
    for prefix, part in (("unet", "unet"), ("text_encoder", "text1"), ("text_encoder_2", "text2")):
        found[part] = {
            key.removeprefix(f"{prefix}."): value
            for key, value in rows.items()
            if key.startswith(f"{prefix}.")
        }
    return found
