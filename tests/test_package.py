"""The wheel and the sdist hold what is in the tree, no less and no more, and say what they are.

Built from a copy, by the build system's own functions and without the network.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import runai

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
VERSION = runai.__version__
INFO = f"runai-{VERSION}.dist-info"
GENERATED = {"PKG-INFO", "runai.egg-info"}
IGNORED = {".git", ".mypy_cache", "work", *GENERATED}  # besides what git ignores


def files_in(folder: Path) -> set[str]:
    """The source files of a tree, below it: without what git ignores."""
    patterns = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]

    def kept(names: list[str]) -> Iterator[str]:
        for name in names:
            if name not in IGNORED and not any(fnmatch.fnmatch(name, p) for p in patterns):
                yield name

    found = set()
    for where, folders, names in os.walk(folder):
        folders[:] = kept(folders)
        found |= {str(Path(where, name).relative_to(folder)) for name in kept(names)}
    return found


def build(what: str, tree: Path, into: Path) -> Path:
    """What the build system makes of a tree. `what`: wheel or sdist."""
    code = f"from setuptools import build_meta; print(build_meta.build_{what}({str(into)!r}))"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        cwd=tree,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return into / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for name in files_in(ROOT):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    return build("sdist", tree, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as packed:
        packed.extractall(folder, filter="data")
    return folder / f"runai-{VERSION}"


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built from the sdist: so that it is as complete as that is."""
    copy = shutil.copytree(unpacked, tmp_path_factory.mktemp("built") / "tree")
    with zipfile.ZipFile(build("wheel", copy, tmp_path_factory.mktemp("wheel"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return Parser().parsestr(wheel.read(f"{INFO}/METADATA").decode())


def test_the_sdist_is_the_tree(unpacked: Path) -> None:
    assert files_in(unpacked) == files_in(ROOT)


def test_the_wheel_is_the_package_with_the_example_model_and_the_benchmarks_inside(
    wheel: zipfile.ZipFile,
) -> None:
    tree = files_in(ROOT)
    package = {name for name in tree if name.startswith("runai/")}
    example = {
        f"runai/{name}"
        for name in tree
        if name.startswith("models.example/") and "/training/" not in name
    }
    benchmarks = {f"runai/{name}" for name in tree if name.startswith("benchmarks/")}
    assert len(package) > 100 and len(example) > 15 and len(benchmarks) > 15
    found = {name for name in wheel.namelist() if not name.startswith(INFO)}
    assert found == package | example | benchmarks


def test_the_wheel_suits_every_machine_and_brings_the_command_and_the_licence(
    wheel: zipfile.ZipFile,
) -> None:
    assert Path(str(wheel.filename)).name == f"runai-{VERSION}-py3-none-any.whl"
    points = ConfigParser()
    points.read_string(wheel.read(f"{INFO}/entry_points.txt").decode())
    assert dict(points["console_scripts"]) == {"runai": "runai.cli:main"}
    assert f"{INFO}/licenses/LICENSE" in wheel.namelist()


def test_the_metadata_are_complete(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("runai", VERSION)
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text("utf-8")
    assert {"watermark", "dev"} <= set(metadata.get_all("Provides-Extra", []))
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_any_build_of_torch_that_is_there_already_is_kept(metadata: Message) -> None:
    """A bound above, or a version, would have pip replace somebody's CUDA build."""
    wanted = metadata.get_all("Requires-Dist", [])
    assert [line for line in wanted if line.startswith("torch>") or line == "torch"] == [
        "torch>=2.5"
    ]
