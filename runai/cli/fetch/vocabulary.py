"""The CLIP vocabulary, which no single-file checkpoint holds.

One small file, as OpenAI published it with CLIP. Two sources: OpenAI's repository, and a
package of the Python index that carries the same file, for networks that let only the index
through. Whatever the source, nothing is written whose hash is another one.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from runai.engine.vocabulary import BPE_BYTES, BPE_NAME, BPE_SHA256, FOLDERS
from runai.errors import FetchFailed

NAME = "vocabulary"
PLACE = FOLDERS[0]
URL = f"https://raw.githubusercontent.com/openai/CLIP/main/clip/{BPE_NAME}"
PACKAGE, MEMBER = "clip-anytorch==2.6.0", f"clip/{BPE_NAME}"
TIMEOUT_S = 30.0
Source = Callable[[], bytes]


def from_url() -> bytes:
    with urllib.request.urlopen(URL, timeout=TIMEOUT_S) as answer:
        return bytes(answer.read(BPE_BYTES + 1))


def from_index() -> bytes:
    """Out of the package, fetched by pip from the index that it is set up for."""
    if getattr(sys, "frozen", False):  # the interpreter is this program then, and has no pip
        raise FileNotFoundError("a packaged program has no pip")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--no-deps", "--no-input", "--quiet", "--disable-pip-version-check"]
        subprocess.run(  # noqa: S603 (words of our own)
            [sys.executable, "-m", "pip", "download", *options, "--dest", folder, PACKAGE],
            check=True,
            capture_output=True,
            text=True,
        )
        return from_wheel(Path(folder))


def from_wheel(folder: Path) -> bytes:
    """Out of the package's wheel in this folder."""
    wheel = next(folder.glob("clip_anytorch-*.whl"), None)
    if wheel is None:
        raise FileNotFoundError(f"there is no wheel of {PACKAGE} in {folder}")
    with zipfile.ZipFile(wheel) as packed:
        return packed.read(MEMBER)


SOURCES: tuple[Source, ...] = (from_url, from_index)


def bring(sources: tuple[Source, ...] = SOURCES) -> bytes:
    """The file, from the first source that has it. Raises FetchFailed naming what each said."""
    reasons = []
    for source in sources:
        try:
            content = source()
        except (OSError, subprocess.CalledProcessError, zipfile.BadZipFile, KeyError) as error:
            reasons.append(_said(error))
            continue
        if hashlib.sha256(content).hexdigest() == BPE_SHA256:
            return content
        reasons.append("it sent another file")
    raise FetchFailed(
        f"The CLIP vocabulary could not be fetched: {'; '.join(reasons)}.",
        hint="Check the network and try again; any diffusers model of yours brings it, too.",
    )


def _said(error: Exception) -> str:
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    if isinstance(error, urllib.error.URLError):
        said = f"{URL}: {error.reason}"
    lines = said.strip().splitlines()
    return lines[-1].rstrip(".") if lines else type(error).__name__
