"""What lay under the base paths at one moment: immutable, so that any thread may read it.

Identification is the dear part (milliseconds a file), so a new snapshot takes over what the
last one found out about files whose stamp is the same.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from runai.engine.archs import ARCHS
from runai.engine.catalogue.entry import Entry
from runai.engine.catalogue.layout import Found, Walk
from runai.engine.catalogue.names import tails, without_ending
from runai.engine.catalogue.stamps import Stamp, folder_time
from runai.engine.detection import Finding, identify, identify_folder
from runai.engine.detection.finding import Format
from runai.schema.events import Kind

# a folder that changed this shortly before it was listed may have changed again in the same tick
_TICK_NS = 50_000_000
_FORMATS: Sequence[Format] = ("diffusers", "safetensors", "ckpt")  # best first
Known = tuple[Stamp, Finding]


@dataclass(frozen=True)
class Rejected:
    """Something that lies there and cannot be used. `is_folder`: for taking its stamp again."""

    name: str
    path: Path
    stamp: Stamp
    is_folder: bool
    finding: Finding


@dataclass(frozen=True)
class Snapshot:
    """`by_tail`: entries by every end of their path, `stem` to `folder/stem`, for each kind."""

    entries: tuple[Entry, ...]
    rejected: tuple[Rejected, ...]
    findings: Mapping[Path, Known]
    folders: Mapping[Path, int]
    taken_ns: int
    by_tail: Mapping[tuple[Kind, str], list[Entry]]
    rejected_by_tail: Mapping[str, Rejected]
    # what was answered for names that are not there: looking for the nearest is slow
    nearest: dict[tuple[Kind, str], list[str]] = field(default_factory=dict)

    def is_stale(self) -> bool:
        """Whether something was put into a folder or taken out since. One stat a folder."""
        return any(
            then > self.taken_ns - _TICK_NS or folder_time(folder) != then
            for folder, then in self.folders.items()
        )


EMPTY = Snapshot((), (), {}, {}, 0, {}, {})


def take(bases: Sequence[Path], example: Path | None, last: Snapshot) -> Snapshot:
    """Look at everything; only what is new or has changed is opened."""
    with _collecting_later():
        return _take(bases, example, last)


@contextlib.contextmanager
def _collecting_later() -> Iterator[None]:
    """Headers become many small objects that are in no cycle and die at once: the collector,
    which would look at each of them several times, costs a third of all.
    """
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


def _take(bases: Sequence[Path], example: Path | None, last: Snapshot) -> Snapshot:
    taken_ns = time.time_ns()
    folders: dict[Path, int] = {}
    findings: dict[Path, Known] = {}
    entries: dict[tuple[Kind, str], Entry] = {}
    files: set[tuple[Kind, str]] = set()
    rejected: dict[Path, Rejected] = {}
    for base in bases:
        walk = Walk(base)
        ours: list[Entry] = []
        for found in walk.run():
            finding = _finding(found, last.findings.get(found.path))
            findings[found.path] = (found.stamp, finding)
            if finding.kind is None:
                rejected[found.path] = Rejected(
                    found.name, found.path, found.stamp, found.is_folder, finding
                )
            else:
                ours.append(_entry(found, finding, finding.kind, base, base == example))
        for entry in sorted(ours, key=lambda e: (e.name, _FORMATS.index(e.format))):
            _add(entry, entries, files)
        folders |= walk.folders
    kept = tuple(entries.values())
    out = tuple(rejected.values())
    return Snapshot(kept, out, findings, folders, taken_ns, _by_tail(kept, findings), _tails(out))


def _add(
    entry: Entry, entries: dict[tuple[Kind, str], Entry], files: set[tuple[Kind, str]]
) -> None:
    """An entry whose name is taken by a better format keeps its ending; a second file has none."""
    whole = _whole_name(entry)
    if (entry.kind, whole) in files:
        return
    files.add((entry.kind, whole))
    if (entry.kind, entry.name) in entries:
        entry = replace(entry, name=whole)
    entries[entry.kind, entry.name] = entry


def _finding(found: Found, known: Known | None) -> Finding:
    if found.problem:
        return Finding(reason=found.problem, fault="broken")
    if known is not None and known[0] == found.stamp:
        return known[1]
    if found.is_folder:
        return identify_folder(found.path, found.version)
    return identify(found.path)


def _entry(found: Found, finding: Finding, kind: Kind, base: Path, example: bool) -> Entry:
    arch = ARCHS.get(finding.arch)
    return Entry(
        name=found.name if found.is_folder else without_ending(found.name),
        version=arch.version if arch else found.version,
        format=finding.format,
        path=found.path,
        example=example,
        stamp=found.stamp,
        kind=kind,
        arch=finding.arch,
        distillation=finding.distillation,
        base=base,
        prediction=finding.prediction,
        zero_snr=finding.zero_snr,
        tiny=finding.tiny,
    )


def _whole_name(entry: Entry) -> str:
    """The name with the file's ending; a folder has none."""
    folder, slash, _ = entry.name.rpartition("/")
    return f"{folder}{slash}{entry.path.name}"


def _by_tail(
    entries: Iterable[Entry], findings: Mapping[Path, Known]
) -> dict[tuple[Kind, str], list[Entry]]:
    found: dict[tuple[Kind, str], list[Entry]] = {}
    called: dict[tuple[Kind, str], list[Entry]] = {}
    for entry in entries:
        for name in dict.fromkeys((entry.name, _whole_name(entry))):
            for tail in tails(name):
                found.setdefault((entry.kind, tail), []).append(entry)
        alias = findings[entry.path][1].metadata.get("ss_output_name", "")
        if entry.kind == "lora" and alias:
            called.setdefault(("lora", alias), []).append(entry)
        if entry.tiny and entry.name.endswith("_decoder"):
            for tail in tails(entry.name.removesuffix("_decoder")):
                called.setdefault(("vae", tail), []).append(entry)
    # prompts of the web UI name a LoRA as its trainer did, and people a tiny autoencoder as the
    # whole of it is called, where no file has that name
    return called | found


def _tails(rejected: Iterable[Rejected]) -> dict[str, Rejected]:
    found: dict[str, Rejected] = {}
    for one in rejected:
        for name in (one.name, without_ending(one.name)):
            for tail in tails(name):
                found.setdefault(tail, one)
    return found
