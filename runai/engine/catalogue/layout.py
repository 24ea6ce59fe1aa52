"""Where models lie: the folders of the original and of the web UI, walked.

    BASE/runwayml, BASE/stabilityai, BASE/v1, v2, xl        the original's, and one for SDXL
    BASE/lora, vae, embeddings                              what is used with models
    BASE/vae_approx, madebyollin                            tiny autoencoders
    BASE/Stable-diffusion, Lora, LyCORIS, VAE, …            the web UI's `models` folder as it is
    BASE/../embeddings                                      where the web UI keeps those
    BASE/models/…                                           BASE is the web UI itself
    BASE/*.safetensors                                      unsorted; with their sub-folders where
                                                            BASE is a `Stable-diffusion` folder

Rules: names are compared without case. A link out of the base path is not followed, a folder
is walked once, under its own name before that of any link to it, and only names and stamps are
read here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from runai.engine.catalogue.stamps import Stamp, folder_stamp, folder_time
from runai.schema.events import Version

# files by their endings, best first where the same model is there twice
ENDINGS = (".safetensors", ".safetensor", ".ckpt", ".pt", ".pth", ".bin")
UNFINISHED = (".part", ".partial", ".crdownload", ".aria2", ".incomplete", ".download", ".tmp")
MAX_DEPTH = 8

# folder of a base path -> the version of what lies there, where the folder says one
FOLDERS: dict[str, Version | None] = {
    "runwayml": "v1",
    "compvis": "v1",
    "stabilityai": "v2",
    "v1": "v1",
    "v2": "v2",
    "xl": "xl",
    "stable-diffusion": None,
    "lora": None,
    "loras": None,
    "lycoris": None,
    "vae": None,
    "vae_approx": None,
    "vae-approx": None,
    "madebyollin": None,
    "embeddings": None,
    "controlnet": None,
    "esrgan": None,
    "realesrgan": None,
}


@dataclass(frozen=True)
class Found:
    """Something under a base path. `problem`: why it need not even be looked into."""

    path: Path
    name: str
    version: Version | None
    stamp: Stamp = (0, 0)
    is_folder: bool = False
    problem: str = ""


@dataclass
class Walk:
    """One walk over a base path. `folders`: the time of change of each that was listed.

    A folder's time is taken before it is listed, so that nothing that is put into it
    meanwhile is missed for good.
    """

    base: Path
    folders: dict[Path, int] = field(default_factory=dict)
    _unreadable: list[Found] = field(default_factory=list)
    _walked: set[tuple[int, int]] = field(default_factory=set)
    _links: list[Callable[[], Iterator[Found]]] = field(default_factory=list)  # for afterwards

    def run(self) -> Iterator[Found]:
        yield from self._run()
        while self._links:
            yield from self._links.pop(0)()
        yield from self._unreadable

    def _run(self) -> Iterator[Found]:
        base = self.base
        models = base / "models"
        self._note(models)
        if models.is_dir() and not (base / "v1").is_dir():  # the web UI itself
            base = models
        root = base.resolve()
        self._is_new(base)  # a link may lead back to it
        if base.name.lower() == "models":
            beside = base.parent / "embeddings"
            yield from self._below(beside, "embeddings/", None, beside.resolve(), MAX_DEPTH)
        flat = base.name.lower() == "stable-diffusion"
        for item in self._list(base):
            name = item.name.lower()
            if name in FOLDERS and _is_folder(item):
                below = partial(
                    self._below, Path(item.path), f"{item.name}/", FOLDERS[name], root, MAX_DEPTH
                )
                yield from self._in_turn(item, below)
            else:
                yield from self._one(item, "", None, root, MAX_DEPTH if flat else 0)

    def _below(
        self, folder: Path, prefix: str, version: Version | None, root: Path, depth: int
    ) -> Iterator[Found]:
        """Everything in a folder that lies, links followed, below `root`."""
        if not self._is_new(folder):
            return
        if not folder.resolve().is_relative_to(root):
            yield Found(folder, prefix.rstrip("/"), version, problem=_LEAVES)
            return
        for item in self._list(folder):
            yield from self._one(item, prefix, version, root, depth)

    def _one(
        self, item: os.DirEntry[str], prefix: str, version: Version | None, root: Path, depth: int
    ) -> Iterator[Found]:
        path, name = Path(item.path), f"{prefix}{item.name}"
        if item.name.startswith("."):
            return
        ending = _ending(item.name)
        try:
            if item.is_symlink() and not path.resolve(strict=True).is_relative_to(root):
                if ending or (path / "model_index.json").is_file():
                    yield Found(path, _shown(name), version, problem=_LEAVES)
                return
            status = item.stat()
        except (OSError, RuntimeError) as error:
            if ending:
                yield Found(path, _shown(name), version, problem=_why(error))
            return
        if stat.S_ISDIR(status.st_mode):
            folder = partial(self._folder, path, name, version, root, depth)
            yield from self._in_turn(item, folder)
        elif ending:
            yield _file(path, name, version, ending, status)

    def _folder(
        self, path: Path, name: str, version: Version | None, root: Path, depth: int
    ) -> Iterator[Found]:
        if not self._is_new(path):
            return
        if not name.isprintable():
            yield Found(path, _shown(name), version, problem="its name cannot be written")
        elif is_diffusers_folder(path):
            yield Found(path, name, version, folder_stamp(path), is_folder=True)
        elif _ending(name):
            yield Found(path, name, version, problem="it is a folder")
        elif depth and not (path / "config.json").is_file():  # else a part of something
            for item in self._list(path):
                yield from self._one(item, f"{name}/", version, root, depth - 1)

    def _in_turn(
        self, item: os.DirEntry[str], walk: Callable[[], Iterator[Found]]
    ) -> Iterator[Found]:
        """A folder is walked now, a link to one when all folders were."""
        if item.is_symlink():
            self._links.append(walk)
        else:
            yield from walk()

    def _is_new(self, folder: Path) -> bool:
        """Whether a folder is there and was not walked yet: a link may lead back to it."""
        try:
            status = folder.stat()
        except OSError:
            return False
        here = (status.st_dev, status.st_ino)
        new = here not in self._walked
        self._walked.add(here)
        return new

    def _list(self, folder: Path) -> list[os.DirEntry[str]]:
        self._note(folder)
        try:
            with os.scandir(folder) as items:
                return sorted(items, key=lambda item: item.name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._unreadable.append(Found(folder, _shown(folder.name), None, problem=_why(error)))
            return []

    def _note(self, folder: Path) -> None:
        self.folders[folder] = folder_time(folder)


def _file(
    path: Path, name: str, version: Version | None, ending: str, status: os.stat_result
) -> Found:
    problem = ""
    if not name.isprintable():
        name, problem = _shown(name), "its name cannot be written"
    elif not stat.S_ISREG(status.st_mode):
        problem = "it is not a file"
    elif ending in UNFINISHED:
        problem = "it is an unfinished download"
    return Found(path, name, version, (status.st_mtime_ns, status.st_size), problem=problem)


_VAES = ("vae", "taesd")
_LEAVES = "it is a link that leaves the model folder"


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


def is_diffusers_folder(path: Path) -> bool:
    """Whether a folder is a whole model, or a VAE, in diffusers' form."""
    if (path / "model_index.json").is_file():
        return True
    names = f"{path.parent.name}/{path.name}".lower()  # a folder of VAEs says what is in it
    return (path / "config.json").is_file() and any(word in names for word in _VAES)


def _ending(name: str) -> str:
    """The ending of a file that should be a model or become one; empty for all others."""
    lower = name.lower()
    return next((end for end in (*ENDINGS, *UNFINISHED) if lower.endswith(end)), "")


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is a link to nothing"
    return f"it cannot be read: {getattr(error, 'strerror', None) or 'it is a link to itself'}"


def _shown(name: str) -> str:
    """A name that can be written into a message, whatever bytes it is made of."""
    return name if name.isprintable() else ascii(name)[1:-1]
