"""One form of a model into another: .ckpt, .safetensors, diffusers folder.

Theory of operation. Nothing is computed, so nothing can be lost: every tensor that is
written is bytes of the source, at most joined, cut or turned (`pieces`). `plan` reads the
source's headers and decides all of it, so that whatever stands in the way is said before a
byte is written. `Conversion.write` writes beside the target under a temporary name and
renames at the end: a target that has its name is whole.

Between .ckpt and .safetensors every tensor is kept, whatever the file is. Into a folder and
out of one go the networks that a model draws with; what a file holds besides (averages of
the training, its state, noise schedules) has no place in a folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runai.engine import detection
from runai.engine.archs import ARCHS, Arch
from runai.engine.conversion import folders, marks, singles
from runai.engine.conversion.pieces import Pieces, size_of
from runai.engine.detection import Finding
from runai.engine.disk import check_space
from runai.engine.loading.weights import read_index
from runai.errors import InvalidSetting, ModelBroken, ModelError, ModelUnsupported

Form = Literal["ckpt", "safetensors", "diffusers"]
ENDINGS: dict[str, Form] = {
    ".ckpt": "ckpt",
    ".safetensors": "safetensors",
    ".safetensor": "safetensors",
    ".pt": "ckpt",
    ".pth": "ckpt",
    ".bin": "ckpt",
    "": "diffusers",
}
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Conversion:
    """What will be written. `files`: pieces by path below the target; "" is the target itself.

    `texts`: contents of small files by path, of a folder. `dropped`: tensors of the source
    that have no place in the target.
    """

    target: Path
    files: Mapping[str, Pieces]
    texts: Mapping[str, str]
    metadata: Mapping[str, str]
    dropped: Sequence[str]

    @property
    def form(self) -> Form:
        return "diffusers" if "" not in self.files else form_of(self.target)

    @property
    def total_bytes(self) -> int:
        return sum(size_of(piece) for file in self.files.values() for piece in file.values())

    def write(self, progress: Progress = lambda count: None, *, force: bool = False) -> None:
        """Write it. Raises InvalidSetting if the target is there already and not `force`, NoSpace
        or OutOfMemory if there is too little of it.
        """
        check_target(self.target, force=force)
        if self.form == "ckpt":
            singles.check_memory(self.target, self.total_bytes)
        self.target.parent.mkdir(parents=True, exist_ok=True)
        check_space(self.target.parent, self.total_bytes)
        part = self.target.with_name(f".{self.target.name}.part")
        _remove(part)
        try:
            self._write_to(part, progress)
            _replace(part, self.target)
        finally:
            _remove(part)

    def _write_to(self, part: Path, progress: Progress) -> None:
        for name, text in self.texts.items():
            path = part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for name, pieces in self.files.items():
            path = part / name if name else part
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.form == "ckpt":
                singles.write_ckpt(path, pieces, progress)
            else:
                singles.write_safetensors(path, pieces, self.metadata, progress)


def plan(
    source: Path,
    target: Path,
    base_paths: Sequence[Path] = (),
    *,
    archs: Mapping[str, Arch] = ARCHS,
    finding: Finding | None = None,
) -> Conversion:
    """What the conversion of `source` into the form that `target` ends in will write.

    `base_paths`: where the vocabulary for a folder is looked for. `finding`: what the source
    is; None: what detection says. Raises a ModelError for a source that cannot be converted,
    InvalidSetting for a pair that makes no sense.
    """
    wanted = form_of(target)
    if not source.exists():
        raise InvalidSetting(f"There is no {source}.", hint="Name a model file or folder.")
    given: Form = "diffusers" if source.is_dir() else form_of(source)
    if given == wanted:
        raise InvalidSetting(
            f"{source.name} is of the form {given} already.",
            hint="Let the target end in .safetensors, .ckpt, or nothing for a diffusers folder.",
        )
    try:
        if "diffusers" not in (given, wanted):
            return _as_it_is(source, target, finding or detection.identify(source), archs)
        found = finding or _detected(source)
        arch = archs[found.arch]
        singles.check_convertible(arch)
        if given == "diffusers":
            return _into_file(source, target, arch, found)
        velocity = archs.get(f"{arch.name}-v") if found.prediction is None else None
        return _into_folder(source, target, arch, velocity, found, base_paths)
    except ModelError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelBroken(f"{source} cannot be converted: {reason[0][:300]}") from error


def _detected(source: Path) -> Finding:
    look = detection.identify_folder if source.is_dir() else detection.identify
    finding = look(source)
    if finding.reason:
        raise finding.error(source.name)
    if finding.kind != "model" or finding.arch not in ARCHS:
        raise ModelUnsupported(f"{source.name} is no whole model: it cannot become another form.")
    return finding


def _as_it_is(
    source: Path, target: Path, finding: Finding, archs: Mapping[str, Arch]
) -> Conversion:
    rows, metadata = read_index(source)
    pieces = singles.as_they_are(rows)
    if finding.kind == "model":
        pieces = {**marks.in_tensors(finding, archs[finding.arch], source), **pieces}
        metadata = marks.in_metadata(finding, metadata)
    return _file(target, finding, pieces, metadata)


def _into_file(source: Path, target: Path, arch: Arch, finding: Finding) -> Conversion:
    model = folders.read(source, arch, finding)
    described = singles.described(model, target.stem)
    return _file(target, model.finding, singles.arranged(model), described)


def _file(
    target: Path, finding: Finding, pieces: Pieces, metadata: Mapping[str, str]
) -> Conversion:
    kept = {} if form_of(target) == "ckpt" else metadata
    if finding.kind == "model":
        marks.check_file(finding, target, pieces, kept)
    elif not kept:
        marks.check_lora(metadata, target)
    return Conversion(target, {"": pieces}, {}, kept, [])


def _into_folder(
    source: Path,
    target: Path,
    arch: Arch,
    velocity: Arch | None,
    finding: Finding,
    base_paths: Sequence[Path],
) -> Conversion:
    rows, metadata = read_index(source)
    model = singles.read(rows, metadata, arch, velocity, finding)
    marks.check_folder(model, target, folders.scheduler_of(model))
    used = {name for part in model.parts.values() for name in part.sources}
    used |= marks.in_tensors(finding, arch, source).keys()
    dropped = sorted(name for name in rows if name not in used)
    texts = folders.texts_of(model, base_paths)
    return Conversion(target, folders.arranged(model), texts, metadata, dropped)


def form_of(path: Path) -> Form:
    """The form that a path's ending means. InvalidSetting for one that is none of a model."""
    ending = path.suffix.lower()
    if ending in ENDINGS:
        return ENDINGS[ending]
    if path.is_dir() or not ending[1:].isalpha():  # "v1.5" is a name, no ending
        return "diffusers"
    raise InvalidSetting(
        f"{path.name} ends in {ending}.",
        hint="Use .safetensors or .ckpt, or no ending for a diffusers folder.",
    )


def check_target(target: Path, *, force: bool) -> None:
    if (target.exists() or target.is_symlink()) and not force:
        raise InvalidSetting(
            f"{target} is there already.", hint="Use --force to replace it, or another name."
        )


def _replace(part: Path, target: Path) -> None:
    """Rename; a folder that is there is put aside first, for it cannot be renamed over."""
    if not target.is_dir() or target.is_symlink():
        if part.is_dir():
            target.unlink(missing_ok=True)
        part.replace(target)
        return
    aside = target.with_name(f".{target.name}.old")
    _remove(aside)
    target.rename(aside)
    part.rename(target)
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
