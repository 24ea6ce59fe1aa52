"""A repository on the hub, through huggingface_hub: what it holds, and its files.

Theory of operation. One call lists the files with sizes and content hashes at one commit.
Each file is then streamed into `<name>.part`; what was already there is asked for no second
time (a Range request), also in a later run. When all bytes are there the hash is compared,
and only then the file gets its name: a file that has its name is whole. A connection that
breaks after it brought something is taken up again at once; one that brings nothing is an
error, and the next run goes on from there. huggingface_hub's own download is not used for
this because it throws partial files away when it fails.

HF_ENDPOINT, HF_TOKEN and proxies are huggingface_hub's business. No telemetry.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
)

from runai import __version__
from runai.cli.fetch import listing
from runai.cli.fetch.listing import RemoteFile, Repository
from runai.cli.fetch.stopping import Stop
from runai.errors import FetchFailed

CHUNK_BYTES = 2**20
TIMEOUT_S = 30.0
MOST_SAID = 300
CLIENT = {"library_name": "runai", "library_version": __version__}
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
AGAIN = "Run the same command again: it goes on where it stopped."
# what the hub or the network says -> what happened, what to do; the first that fits
REASONS: tuple[tuple[type[Exception], str, str], ...] = (
    (
        GatedRepoError,
        "{repo} is given only to people who have accepted its terms.",
        "Accept them on its page, then set HF_TOKEN to a token of your account.",
    ),
    (
        RepositoryNotFoundError,
        "There is no repository {repo}, or it is not public.",
        "Correct the name; for one that is not public set HF_TOKEN.",
    ),
    (RevisionNotFoundError, "{repo} has no such revision.", "Correct --revision."),
    (HFValidationError, "{repo!r} is no name of a repository.", "Write it as owner/name."),
    (HfHubHTTPError, "The hub answered {error}.", AGAIN),
    (httpx2.TimeoutException, "The hub does not answer.", AGAIN),
    (httpx2.ConnectError, "The hub cannot be reached: {error}.", f"Is there a network? {AGAIN}"),
    (httpx2.HTTPError, "The connection broke: {error}.", AGAIN),
)
Progress = Callable[[int], object]


@contextlib.contextmanager
def _explained(repo: str) -> Iterator[None]:
    try:
        yield
    except tuple(row[0] for row in REASONS) as error:
        said = _line(error)
        message, hint = next((m, h) for kind, m, h in REASONS if isinstance(error, kind))
        raise FetchFailed(message.format(repo=repo, error=said), hint=hint) from error


def _line(error: Exception) -> str:
    """What the error says first, as text that a terminal may be given: the hub has a part in it."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    shown = "".join(letter if letter.isprintable() else "?" for letter in first)
    return shown[:MOST_SAID].rstrip(".")


def look_up(repo: str, revision: str | None) -> Repository:
    """What the repository holds. Raises FetchFailed."""
    with listing.understood(repo):
        with _explained(repo):
            info = HfApi(**CLIENT).model_info(  # type: ignore[arg-type]
                repo, revision=revision, files_metadata=True, timeout=TIMEOUT_S
            )
        return listing.read(repo, info)


def fetch(
    repository: Repository, file: RemoteFile, folder: Path, progress: Progress, stop: Stop
) -> None:
    """Bring one file into `folder`, whole and verified; `progress` gets bytes, also old ones.

    `stop` ends it in the middle. Raises FetchFailed; what has arrived stays for the next time.
    """
    target = folder / file.name
    if target.is_file():
        progress(file.size)
        return
    part = part_of(target)
    part.parent.mkdir(parents=True, exist_ok=True)
    progress(have := arrived(target))
    with part.open("ab") as sink, _explained(repository.name):
        while have < file.size:
            have = _go_on(repository, file, sink, have, progress, stop)
    _verify(part, file)
    part.rename(target)


def part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def arrived(target: Path) -> int:
    """Bytes of a file that are there already."""
    found = next((path for path in (target, part_of(target)) if path.is_file()), None)
    return found.stat().st_size if found else 0


def _go_on(
    repository: Repository,
    file: RemoteFile,
    sink: Any,
    have: int,
    progress: Progress,
    stop: Stop,
) -> int:
    """Ask for what is missing; how much there is then, or one piece too much of it.

    Raises what broke if there is no more than before.
    """
    before = have
    try:
        with _asked(repository, file, have) as answer, stop.receiving(_connection_of(answer)):
            if answer.status_code != PARTIAL_CONTENT and have:  # it sends all of it once more
                sink.truncate(0)
                progress(-have)
                have = 0
            for chunk in answer.iter_raw():  # as they come, so that none is lost
                sink.write(chunk)
                have += len(chunk)
                progress(len(chunk))
                if have > file.size:
                    break  # nobody knows where it would end
    except httpx2.TransportError:
        if have <= before:  # no more than last time, if all of it was sent once more
            raise
    else:
        if have < file.size:
            raise FetchFailed(f"{file.name} ended after {have} of {file.size} bytes.", hint=AGAIN)
    return have


@contextlib.contextmanager
def _asked(repository: Repository, file: RemoteFile, have: int) -> Iterator[httpx2.Response]:
    url = hf_hub_url(repository.name, file.name, revision=repository.commit)
    headers = {**build_hf_headers(**CLIENT), "Accept-Encoding": "identity"}  # type: ignore[arg-type]
    if have:
        headers["Range"] = f"bytes={have}-"
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as answer:
        hf_raise_for_status(answer)
        yield answer


def _connection_of(answer: httpx2.Response) -> socket.socket:
    found: socket.socket = answer.extensions["network_stream"].get_extra_info("socket")
    return found


def _verify(part: Path, file: RemoteFile) -> None:
    size = part.stat().st_size
    # git hashes a blob with its length in front
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % size)
    with part.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != (file.sha256 or file.blob):
        part.unlink()
        raise FetchFailed(f"{file.name} did not arrive as it was sent.", hint=AGAIN)
