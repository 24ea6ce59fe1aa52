"""PURE: which model is meant by a request that names none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runai.engine.archs import ARCHS, Beside
from runai.engine.catalogue.entry import Entry
from runai.schema.events import Version

# what a version's default is among equals: the model everybody means
_PREFERRED = (
    "runwayml/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-xl-base-1.0",
)
_VERSIONS: tuple[Version, ...] = ("v1", "v2", "xl")
_BESIDE: dict[str, Beside] = {"inpaint": "mask", "outpaint": "mask", "upscale": "low_res"}


def default(entries: Iterable[Entry], version: Version | None, task: str) -> Entry | None:
    """The model for a task; None if there is none of this version that can do it.

    One whose UNet reads what the task has (a mask, a small picture) goes first, then one
    that was not distilled, then the version's base model; the example goes last.
    """
    models = [e for e in entries if e.kind == "model" and version in (None, e.version)]
    able = [e for e in models if task in ARCHS[e.arch].tasks]
    return min(able, key=lambda e: _rank(e, task), default=None)


def each(entries: Sequence[Entry]) -> set[str]:
    """The names of every version's default for txt2img."""
    found = (default(entries, version, "txt2img") for version in _VERSIONS)
    return {entry.name for entry in found if entry is not None}


def _rank(entry: Entry, task: str) -> tuple[bool, ...]:
    arch = ARCHS[entry.arch]
    return (
        entry.example,
        arch.beside != _BESIDE.get(task, "nothing"),
        "txt2img" not in arch.tasks,  # a refiner draws no whole picture
        entry.distillation is not None,
        entry.name not in _PREFERRED,
    )
