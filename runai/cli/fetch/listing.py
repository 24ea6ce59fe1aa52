"""PURE: what the hub says that a repository holds, checked before any of it becomes a path.

Whoever answers in the hub's place may say anything. Rules:

- a listing of another form than the hub's is an error, as a whole;
- a commit is 40 hexadecimal digits, a size is known, and so is a hash;
- a name is one of printable characters that leads below the folder that it is put in; a
  file with another one is left out, and told of.

Opens no connection.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runai.errors import FetchFailed

COMMIT, BLOB, SHA256 = "[0-9a-f]{40}", "[0-9a-f]{40}", "[0-9a-f]{64}"
MAX_PART_BYTES = 240  # of 255 that a file's name may have, for an ending of ours
MAX_NAME_BYTES = 1000


@dataclass(frozen=True)
class RemoteFile:
    """`sha256` of large files; of others git's own hash, `blob`."""

    name: str
    size: int
    blob: str
    sha256: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit. `odd`: names of files that are left out for them."""

    name: str
    commit: str
    files: tuple[RemoteFile, ...]
    odd: tuple[str, ...] = ()


@contextlib.contextmanager
def understood(repo: str) -> Iterator[None]:
    """What goes wrong within while an answer is read, is an answer that makes no sense."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise FetchFailed(
            f"What the hub says about {repo} cannot be understood.",
            hint="Is HF_ENDPOINT the address of a hub? Is there a page to log in to the network?",
        ) from error


def read(repo: str, info: Any) -> Repository:
    """The repository that huggingface_hub's ModelInfo tells of. Raises ValueError or the like."""
    files = [_file(row) for row in info.siblings]
    odd = tuple(file.name for file in files if not is_usable(file.name))
    kept = tuple(file for file in files if file.name not in odd)
    return Repository(repo, _matching(COMMIT, info.sha), kept, odd)


def _file(row: Any) -> RemoteFile:
    size: object = row.size
    if type(size) is not int or size < 0 or not isinstance(row.rfilename, str):
        raise ValueError("a file without a size or a name")
    large = row.lfs
    return RemoteFile(
        row.rfilename,
        size,
        "" if large else _matching(BLOB, row.blob_id),
        _matching(SHA256, large.sha256) if large else None,
    )


def _matching(pattern: str, text: str) -> str:
    if re.fullmatch(pattern, text) is None:
        raise ValueError("no hash")
    return text


def is_usable(name: str) -> bool:
    """Whether a file of this name can be put below a folder."""
    if not name.isprintable() or "\\" in name or len(name.encode()) > MAX_NAME_BYTES:
        return False
    parts = name.split("/")
    return all(p not in ("", ".", "..") and len(p.encode()) <= MAX_PART_BYTES for p in parts)
