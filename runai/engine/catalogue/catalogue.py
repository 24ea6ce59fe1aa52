"""The catalogue: names to entries, defaults, and the listing.

Theory of operation. All answers come from a `Snapshot`, which is replaced as a whole, so any
thread may ask. Before an answer the snapshot's folders are compared with the disk (one `stat`
each, at most every `PATIENCE_S`), and the entry that is given out with its own file (one more):
so a file that was put there is found by the next request, and one that was written over has a
new stamp. A name that is not there has the folders compared at once. Only a folder that changed
makes the base paths be walked again, and only files with a new stamp are opened.

Costs with 2,000 files: see benchmarks/catalogue.py.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from runai.engine.archs import ARCHS
from runai.engine.catalogue import defaults, snapshot
from runai.engine.catalogue.entry import Entry
from runai.engine.catalogue.names import asked
from runai.engine.catalogue.snapshot import EMPTY, Rejected, Snapshot
from runai.engine.catalogue.stamps import stamp_of
from runai.engine.hashes import Hashes, short_hash
from runai.errors import ModelError, ModelNotFound
from runai.schema.events import Kind, ModelInfo, Unusable, Version

PATIENCE_S = 0.1
MAX_NEAREST_KEPT = 64
_KINDS: dict[Kind, str] = {
    "model": "model",
    "lora": "LoRA",
    "embedding": "embedding",
    "vae": "VAE",
}
_FIELDS: dict[Kind, str] = {"model": "model", "lora": "loras", "vae": "vae", "embedding": "prompt"}


class Catalogue:
    """What lies under `base_paths`; what lies under `example_path` is the last resort.

    Any thread may ask. `close` it when done: it ends the computing of hashes.
    """

    def __init__(self, base_paths: Sequence[Path], example_path: Path | None = None) -> None:
        self._base_paths = [path.expanduser().absolute() for path in base_paths]
        self._example_path = example_path
        self._snapshot: Snapshot = EMPTY
        self._checked = -PATIENCE_S  # by the monotonic clock
        self._hashes = Hashes()

    @property
    def base_paths(self) -> list[Path]:
        """All roots in order of precedence, the example's last."""
        return [*self._base_paths, *([self._example_path] if self._example_path else [])]

    def close(self) -> None:
        """Stop computing hashes. What is known can still be asked."""
        self._hashes.stop()

    # --- what there is -------------------------------------------------------------------

    def entries(self, kind: Kind | None = None) -> list[Entry]:
        """Everything there is now, or all of a kind, by base path, then by name."""
        return [e for e in self._current().entries if kind in (None, e.kind)]

    def infos(self, loaded: Collection[str] = ()) -> list[ModelInfo]:
        """What `models` answers. Each version's default for txt2img is marked."""
        now = self._look()
        marked = defaults.each(now.entries)
        return [self._info(now, e, loaded, marked) for e in now.entries]

    def unusable(self) -> list[Unusable]:
        """What lies there and cannot be used, with the reason."""
        return [Unusable(name=r.name, reason=r.finding.reason) for r in self._current().rejected]

    def sha256(self, entry: Entry) -> str | None:
        """The hash of a file if it is known by now; else it is computed in the background."""
        return None if entry.format == "diffusers" else self._hashes.ask(entry.path, entry.stamp)

    # --- what is meant -------------------------------------------------------------------

    def default(self, version: Version | None = None, task: str = "txt2img") -> Entry:
        """The model meant by a request that names none (`defaults`); ModelNotFound without one."""
        for patience in (PATIENCE_S, 0.0):
            found = defaults.default(self._current(patience).entries, version, task)
            if found is not None:
                return self._fresh(found)
        raise self._none(version, task)

    def find(self, name: str, version: Version | None = None, kind: Kind = "model") -> Entry:
        """What is meant by a name, however it is written (`names`). `version` decides between two.

        Raises ModelNotFound with the nearest names if there is none, or several; and the error
        that fits when something of that name is there and cannot be used.
        """
        for patience in (PATIENCE_S, 0.0):
            now = self._current(patience)
            wanted, found = self._meant(now, name, version, kind)
            if len(found) == 1:
                return self._fresh(found[0])
            if len(found) > 1:
                raise _several(name, found, kind)
        rejected = now.rejected_by_tail.get(wanted)
        if rejected is None:
            raise self._not_found(now, name, wanted, kind)
        if stamp_of(rejected.path, is_folder=rejected.is_folder) in (rejected.stamp, None):
            raise rejected.finding.error(rejected.name)
        return self._second_look(rejected, name, version, kind)

    # --- within --------------------------------------------------------------------------

    def _current(self, patience: float = PATIENCE_S) -> Snapshot:
        """The snapshot, compared with the folders unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._checked < patience:
            return self._snapshot
        if self._snapshot is EMPTY or self._snapshot.is_stale():
            return self._look()
        self._checked = now
        return self._snapshot

    def _look(self) -> Snapshot:
        checked = time.monotonic()
        taken = snapshot.take(self.base_paths, self._example_path, self._snapshot)
        self._snapshot, self._checked = taken, checked
        return taken

    def _fresh(self, entry: Entry) -> Entry:
        """The entry as its file is now. Whoever wrote over it may have made it another model."""
        stamp = stamp_of(entry.path, is_folder=entry.format == "diffusers")
        if stamp in (entry.stamp, None):  # if it is gone, loading will say so
            return entry
        same = [e for e in self._look().entries if (e.kind, e.name) == (entry.kind, entry.name)]
        return same[0] if same else entry

    def _second_look(
        self, rejected: Rejected, name: str, version: Version | None, kind: Kind
    ) -> Entry:
        """What could not be used has changed since: a download has ended, say."""
        now = self._look()
        wanted, found = self._meant(now, name, version, kind)
        if found:
            return found[0]
        raise now.rejected_by_tail.get(wanted, rejected).finding.error(rejected.name)

    def _meant(
        self, now: Snapshot, name: str, version: Version | None, kind: Kind
    ) -> tuple[str, list[Entry]]:
        """The spelling of a name under which something is there, and what can be used of it."""
        spellings, hash_ = asked(name, self._base_paths)
        wanted = next(
            (s for s in spellings if (kind, s) in now.by_tail or s in now.rejected_by_tail),
            spellings[-1],
        )
        found = now.by_tail.get((kind, wanted), [])
        found = [e for e in found if e.name == wanted] or found
        if len(found) > 1 and version:
            # of what it was made for nothing may tell
            found = [e for e in found if e.version == version] or [
                e for e in found if e.version is None
            ]
        return wanted, self._with_hash(found, hash_) if hash_ else found

    def _with_hash(self, found: list[Entry], hash_: str) -> list[Entry]:
        known = {e.path: self._hashes.known(e.path, e.stamp) for e in found}
        hits = [e for e in found if (known[e.path] or "").startswith(hash_)]
        # an older kind of hash, and one that is not computed yet, decides nothing
        return hits or [e for e in found if known[e.path] is None or len(hash_) < 10]

    def _info(
        self, now: Snapshot, entry: Entry, loaded: Collection[str], marked: Collection[str]
    ) -> ModelInfo:
        finding = now.findings[entry.path][1]
        sha256 = self._hashes.known(entry.path, entry.stamp)
        model = entry.kind == "model"
        return ModelInfo(
            name=entry.name,
            kind=entry.kind,
            title=entry.path.name + (f" [{short_hash(sha256)}]" if sha256 else ""),
            arch=entry.arch,
            version=entry.version,
            format=entry.format,
            distillation=entry.distillation,
            tiny=entry.tiny,
            tasks=list(ARCHS[entry.arch].tasks) if model else [],
            sha256=sha256,
            trigger_words=list(finding.trigger_words),
            metadata=finding.metadata,
            loaded=model and entry.name in loaded,
            default=model and entry.name in marked,
        )

    def _none(self, version: Version | None, task: str) -> ModelNotFound:
        what = {"upscale": "upscaling model"}.get(task, "model")
        where = f"its {version}/ folder" if version else "its v1/, v2/ or xl/ folder"
        put = {"upscale": "stabilityai/stable-diffusion-x4-upscaler"}.get(task, "a checkpoint")
        return ModelNotFound(
            f"There is no {what} for {task} in {self._where()}.",
            hint=f"Put {put} into {where}.",
            field="model",
        )

    def _not_found(self, now: Snapshot, name: str, wanted: str, kind: Kind) -> ModelError:
        near = now.nearest.get((kind, wanted))
        if near is None:
            names = {tail: e.name for e in now.entries if e.kind == kind for tail in _ends(e)}
            hits = difflib.get_close_matches(wanted, list(names), 5, 0.3)
            near = list(dict.fromkeys(names[hit] for hit in hits or list(names)[:5]))
            if len(now.nearest) < MAX_NEAREST_KEPT:
                now.nearest[kind, wanted] = near
        where = self._where()
        hint = f"Use one of: {', '.join(near)}." if near else f"Put it into {where}."
        what = _KINDS[kind]
        return ModelNotFound(
            f"The {what} {name!r} is not in {where}.", hint=hint, field=_FIELDS[kind]
        )

    def _where(self) -> str:
        return " or ".join(str(path) for path in self._base_paths) or "any model folder"


def _ends(entry: Entry) -> tuple[str, str]:
    return entry.name, entry.name.rpartition("/")[2]


def _several(name: str, found: Sequence[Entry], kind: Kind) -> ModelNotFound:
    return ModelNotFound(
        f"The {_KINDS[kind]} {name!r} means several {_KINDS[kind]}s.",
        hint=f"Use one of: {', '.join(entry.name for entry in found)}.",
        field=_FIELDS[kind],
    )
