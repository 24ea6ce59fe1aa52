"""What a .ckpt, .pt or .bin file holds, without ever unpickling it.

torch.save writes a pickle, which is a program for a small stack machine, and beside it the
tensors' bytes. Here that program is read by a machine that cannot do anything (`machine`), so a
file cannot run code whatever it says; and the sizes that it claims are compared with what is
there (`forms`). No torch.

`look` is for detection and reads no more than the pickle; `read` is for loading and finds out
where each tensor's bytes are, too. Both refuse the same files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runai.engine.pickles.forms import look
from runai.engine.pickles.machine import Damaged, Placeholder, Tensor, Unsafe
from runai.errors import ModelBroken, ModelUnsafe

__all__ = [
    "Damaged",
    "Tensor",
    "Unsafe",
    "look",
    "mapping",
    "nested",
    "read",
    "state_dict",
]
MAX_DEPTH = 6


def read(path: Path) -> Any:
    """The file's content: plain containers and values with `Tensor`s in them, all placed.

    Raises ModelUnsafe if the file names anything that is not known to be harmless, ModelBroken
    if it is none of torch's or damaged.
    """
    try:
        with path.open("rb") as file:
            return look(file, placed=True)
    except Unsafe as error:
        raise ModelUnsafe(f"{path.name} names {error}; loading it could run code.") from None
    except Damaged as error:
        raise ModelBroken(f"{path.name} is damaged or not a checkpoint: {error}.") from None


def state_dict(content: Any) -> dict[str, Tensor]:
    """The tensors by name, from where trainers put them: on top or under `state_dict`."""
    top = mapping(content)
    weights = mapping(top.get("state_dict", top))
    return {name: value for name, value in weights.items() if isinstance(value, Tensor)}


def mapping(value: Any) -> dict[str, Any]:
    """A dict, also where torch's ParameterDict wraps it; empty for anything else."""
    if isinstance(value, Placeholder) and isinstance(value.state, dict):
        value = value.state.get("_parameters")
    return value if isinstance(value, dict) else {}


def nested(content: Any) -> dict[str, Tensor]:
    """All tensors in dicts within dicts, whose names are joined by dots.

    Each dict is gone through once, however many places it is in. Raises ModelBroken if they
    are nested more deeply than any trainer does.
    """
    return dict(_nested(content, "", 0, set()))


def _nested(value: Any, prefix: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix, value
    inner = mapping(value)
    if id(inner) in seen:
        return
    seen.add(id(inner))
    if inner and depth == MAX_DEPTH:
        raise ModelBroken("Its dicts are nested too deeply for a model file.")
    for name, item in inner.items():
        yield from _nested(item, f"{prefix}.{name}" if prefix else name, depth + 1, seen)
