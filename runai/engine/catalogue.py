"""The models that lie under the base paths, and the names by which requests mean them.

The layout is the original's:

    BASE/runwayml/<diffusers folder>      base models of Stable Diffusion 1
    BASE/stabilityai/<diffusers folder>   base models of Stable Diffusion 2
    BASE/v1/<folder, .ckpt, .safetensors> the user's own, for version 1
    BASE/v2/<folder, .ckpt, .safetensors> the user's own, for version 2

The same model in several formats is one entry; the best format is taken. Nothing outside
the base paths can be named. No torch: only names are read here.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from runai.errors import ModelNotFound
from runai.schema.events import ModelInfo, Version

Format = Literal["diffusers", "safetensors", "ckpt"]
FOLDERS: dict[str, Version] = {"runwayml": "v1", "stabilityai": "v2", "v1": "v1", "v2": "v2"}
# best first: a folder needs no conversion, safetensors cannot hold code and are mapped
FORMATS: dict[str, Format] = {
    "": "diffusers",
    ".safetensors": "safetensors",
    ".safetensor": "safetensors",
    ".ckpt": "ckpt",
}
_PREFERENCE: tuple[Format, ...] = ("diffusers", "safetensors", "ckpt")
# what a version's default is, if it is there: the plain base model, not the inpainting one
_PREFERRED_DEFAULTS = (
    "runwayml/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base",
)


@dataclass(frozen=True)
class Entry:
    """One model. `name` is its path below the base, without the ending."""

    name: str
    version: Version
    format: Format
    path: Path
    example: bool = False
    stamp: tuple[int, int] = (0, 0)  # changes when the weights do: time of change, size


class Catalogue:
    """The models under `base_paths`; those under `example_path` are the last resort."""

    def __init__(self, base_paths: Sequence[Path], example_path: Path | None = None) -> None:
        self._base_paths = [path.expanduser() for path in base_paths]
        self._example_path = example_path

    @property
    def base_paths(self) -> list[Path]:
        """All roots in order of precedence, the example's last."""
        return [*self._base_paths, *([self._example_path] if self._example_path else [])]

    def entries(self) -> list[Entry]:
        """Every model there is now, in the order of the base paths, then by name."""
        found: dict[str, Entry] = {}
        for base in self.base_paths:
            for entry in _best(_scan(base, example=base == self._example_path)):
                found.setdefault(entry.name, entry)
        return list(found.values())

    def default(self, version: Version | None = None, task: str = "txt2img") -> Entry:
        """The model meant by a request that names none; raises ModelNotFound if there is none.

        The version's base model, else the first of its own models, else the example; for
        inpaint and outpaint an inpainting model goes first.
        """
        entries = [e for e in self.entries() if version in (None, e.version)]
        if not entries:
            raise ModelNotFound(
                f"There is no model in {self._where()}.",
                hint="Put a checkpoint into its v1/ or v2/ folder.",
                field="model",
            )
        painting = task in ("inpaint", "outpaint")

        def rank(entry: Entry) -> tuple[bool, bool, bool]:
            inpainting = "inpainting" in entry.name
            return (entry.example, inpainting != painting, entry.name not in _PREFERRED_DEFAULTS)

        return _stamped(min(entries, key=rank))

    def infos(self, loaded: Collection[str] = ()) -> list[ModelInfo]:
        """What `models` answers. Each version's default for txt2img is marked."""
        entries = self.entries()
        versions = {entry.version for entry in entries}
        defaults = {self.default(version).name for version in versions}
        return [
            ModelInfo(
                name=entry.name,
                version=entry.version,
                format=entry.format,
                loaded=entry.name in loaded,
                default=entry.name in defaults,
            )
            for entry in entries
        ]

    def find(self, name: str, version: Version | None = None) -> Entry:
        """The model of that name: its path below the base with or without ending, or its stem.

        Raises ModelNotFound with the nearest names if there is none, or several.
        """
        entries = self.entries()
        wanted = self._relative(name)
        found = [e for e in entries if wanted == e.name]
        if not found and "/" not in wanted:
            found = [e for e in entries if wanted == Path(e.name).name]
        if len(found) > 1 and version:
            found = [e for e in found if e.version == version]
        if len(found) == 1:
            return _stamped(found[0])
        raise self._not_found(name, found or entries, several=len(found) > 1)

    def _relative(self, name: str) -> str:
        """A name without the base path and without the ending, which need not be the one that
        is there: old profiles name a .ckpt where a .safetensors has taken its place.
        """
        for base in self._base_paths:
            name = name.removeprefix(f"{base}/")
        ending = Path(name).suffix
        return name.rstrip("/").removesuffix(ending if ending in FORMATS else "")

    def _not_found(self, name: str, entries: list[Entry], *, several: bool) -> ModelNotFound:
        names = [entry.name for entry in entries]
        near = names if several else difflib.get_close_matches(name, names, 5, 0.3) or names[:5]
        what = "means several models" if several else f"is not in {self._where()}"
        listed = ", ".join(near)
        hint = f"Use one of: {listed}." if near else "Put models into its v1/ and v2/ folders."
        return ModelNotFound(f"The model {name!r} {what}.", hint=hint, field="model")

    def _where(self) -> str:
        return " or ".join(str(path) for path in self._base_paths) or "any model folder"


def _stamped(entry: Entry) -> Entry:
    """The entry as its weights are now."""
    weights = entry.path / "unet" if entry.format == "diffusers" else entry.path
    try:
        status = weights.stat()
    except OSError:  # loading will say what is wrong with it
        return entry
    return replace(entry, stamp=(status.st_mtime_ns, status.st_size))


def _best(entries: Iterable[Entry]) -> list[Entry]:
    best: dict[str, Entry] = {}
    for entry in entries:
        rival = best.get(entry.name)
        if rival is None or _PREFERENCE.index(entry.format) < _PREFERENCE.index(rival.format):
            best[entry.name] = entry
    return [best[name] for name in sorted(best)]


def _scan(base: Path, *, example: bool) -> Iterator[Entry]:
    root = base.resolve()
    for folder, version in FOLDERS.items():
        for path in _children(base / folder):
            if (format_ := _format_within(path, root)) is None:
                continue
            stem = path.name if format_ == "diffusers" else path.stem
            yield Entry(f"{folder}/{stem}", version, format_, path, example)


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # not there, or not readable: then it holds no models for us
        return []


def _format_within(path: Path, root: Path) -> Format | None:
    """What a path is, if it is a model that lies below `root`: a link out is not followed."""
    try:
        inside = path.resolve().is_relative_to(root)
        # an unprintable name could not be written into a message
        return _format_of(path) if inside and path.name.isprintable() else None
    except (OSError, RuntimeError):  # a folder of somebody else's, a link to itself
        return None


def _format_of(path: Path) -> Format | None:
    if path.is_dir():
        return "diffusers" if (path / "model_index.json").is_file() else None
    return FORMATS.get(path.suffix.lower()) if path.suffix and path.is_file() else None
