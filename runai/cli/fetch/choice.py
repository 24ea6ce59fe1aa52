"""PURE: which files of a repository are needed.

A repository often holds the same weights four or five times: as safetensors and pickles, in
full and half precision, for other frameworks, and as one large file beside the folders. One
is needed. Rules, in this order:

- patterns that the user gives are taken at their word;
- a diffusers model (`model_index.json`): its components, each with one format of weights;
- a single component (`config.json`): its configuration and one format of weights;
- else single files: the one there is; of several the user has to choose.

Safetensors go before pickles, since they cannot hold code. Opens no connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import PurePosixPath

from runai.engine.weight_names import STEMS
from runai.errors import InvalidSetting

INDEX, CONFIG = "model_index.json", "config.json"
# what the engine reads of a diffusers folder
COMPONENTS = (
    "depth_estimator",
    "feature_extractor",
    "low_res_scheduler",
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "unet",
    "vae",
)
CONFIGURATION = (".json", ".txt", ".model")
SINGLE = (".safetensors", ".ckpt", ".pt", ".bin")
_ENDINGS = "|".join(STEMS)
# stem, variant, shard, ending, and the index of shards: diffusers' and transformers' names
_WEIGHTS = re.compile(
    rf"(?:{'|'.join(stem for stems in STEMS.values() for stem in stems)})"
    rf"(?:\.(?P<variant>(?!{_ENDINGS})\w+))?"
    r"(?:-\d{5}-of-\d{5})?"
    rf"\.(?P<ending>{_ENDINGS})(?:\.index(?:\.(?P<indexed>\w+))?\.json)?"
)


def needed(
    names: Sequence[str],
    *,
    variant: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[str]:
    """The files to fetch, sorted. Raises InvalidSetting if none is left, or it cannot be told."""
    left = [name for name in names if not _matches(name, exclude)]
    found = [name for name in left if _matches(name, include)] if include else _told(left, variant)
    if not found:
        raise InvalidSetting(
            "No file of the repository is needed, or matches.",
            hint=f"Correct --include or --exclude; there are {_listed(names)}.",
        )
    return sorted(found)


def is_folder(names: Iterable[str]) -> bool:
    """Whether these files make up one model together, and are no single files."""
    return any("/" in name or name in (INDEX, CONFIG) for name in names)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _told(names: Sequence[str], variant: str | None) -> list[str]:
    if INDEX in names:
        parts = [_component(_below(folder, names), variant) for folder in COMPONENTS]
        return [INDEX, *(name for part in parts for name in part)]
    top = _below("", names)
    return _component(top, variant) if CONFIG in top else _the_only(top)


def _below(folder: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if str(PurePosixPath(name).parent) == (folder or ".")]


def _component(names: Sequence[str], variant: str | None) -> list[str]:
    """Configuration, and the best weights that are there."""
    weights = {name: found for name in names if (found := _form(name)) is not None}
    if variant is not None and variant not in {form[0] for form in weights.values()}:
        variant = None  # a component that does not have it is taken as it is, as diffusers does
    order = sorted(
        set(weights.values()), key=lambda f: (f[0] != variant, f[0] or "", f[1] != "safetensors")
    )
    best = order[0] if order else None
    plain = [n for n in names if n not in weights and n.endswith(CONFIGURATION)]
    return [*_without_indices(plain), *(n for n, form in weights.items() if form == best)]


def _without_indices(names: Sequence[str]) -> list[str]:
    """Not the indices of weights in formats that are not known here."""
    return [name for name in names if ".index." not in name]


def _form(name: str) -> tuple[str | None, str] | None:
    """Variant and ending of a file of weights."""
    found = _WEIGHTS.fullmatch(PurePosixPath(name).name)
    return (found["variant"] or found["indexed"], found["ending"]) if found else None


def _the_only(names: Sequence[str]) -> list[str]:
    """The single file there is, safetensors first."""
    for ending in SINGLE:
        found = [name for name in names if name.endswith(ending)]
        if len(found) == 1:
            return found
        if found:
            raise InvalidSetting(
                f"The repository holds {len(found)} models.",
                hint=f"Choose with --include: {_listed(found)}.",
            )
    return []


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "") or "none"
