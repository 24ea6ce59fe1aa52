"""Files of models that change, go or break while they are loaded.

The moment is exact: an audit hook of Python's sees each opening of a file before it happens.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny

from tests.faults.servers import Drawing
from tests.faults.watching import Table

WEIGHTS = Path("v1", "faulty", "unet", "diffusion_pytorch_model.safetensors")
VAE = Path("v1", "faulty", "vae", "diffusion_pytorch_model.safetensors")
CONFIG = Path("v1", "faulty", "unet", "config.json")
Change = Callable[[Path], None]


class Opening:
    """Calls `then` once, at the next opening of a file for reading its text or its weights."""

    def __init__(self) -> None:
        self.path = ""
        self.raw = False
        self.then: Callable[[], None] = lambda: None
        sys.addaudithook(self._hear)  # for good: there is no way to take one away

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event != "open" or not self.path or str(args[0]) != self.path:
            return
        if self.raw and args[1] is not None:  # only what is opened by the system's call itself
            return
        self.path = ""
        self.then()

    @contextmanager
    def of(self, path: Path, then: Callable[[], None], *, raw: bool = False) -> Iterator[None]:
        self.raw, self.then, self.path = raw, then, str(path)
        yield
        assert not self.path, "it was never opened"


@pytest.fixture(scope="module")
def opening() -> Opening:
    return Opening()


@pytest.fixture
def base(models: Path, tmp_path: Path) -> Path:
    """A base path of its own, with another model beside the sound one."""
    base = tmp_path / "models"
    shutil.copytree(models, base)
    shutil.copytree(models / "v1" / "plain", base / "v1" / "faulty")
    return base


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace(path: Path) -> None:
    """By a file that is as long and holds tensors of the same shapes at the same places."""
    other = tiny.write_model(path.parents[3] / "other", seed=9)
    assert (other / "unet" / path.name).stat().st_size == path.stat().st_size
    (other / "unet" / path.name).replace(path)
    shutil.rmtree(other)


def write_over(path: Path) -> None:
    """In its place, all but the header."""
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(1000))


def remove(path: Path) -> None:
    path.unlink()


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def move(path: Path, to: Path) -> None:
    path.rename(to)


def make_unreadable(path: Path) -> None:
    """Of this file every reading fails with EIO."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


CHANGED = "was changed while it was read"
# what happens to the UNet's weights when which file is opened to be read
WHILE_READ = {
    "cut short": (cut, WEIGHTS, CHANGED),
    "replaced by another": (replace, WEIGHTS, CHANGED),
    "written over": (write_over, VAE, CHANGED),
    "deleted": (remove, WEIGHTS, "No such file"),
}


@pytest.mark.parametrize("what", WHILE_READ)
def test_weights_that_change_between_the_look_into_them_and_the_end_of_reading(
    drawing: Callable[..., Drawing], table: Table, opening: Opening, base: Path, what: str
) -> None:
    change, file, said = WHILE_READ[what]
    with table.survived(f"weights {what} while they are loaded", drawing(base)) as watch:
        with opening.of(base / file, lambda: change(base / WEIGHTS), raw=True):
            error = watch.ask(model="v1/faulty")["error"]
        assert error["code"] == "model_broken"
        assert said in error["message"] and "v1/faulty" in error["message"]
        put_back(base)
        assert watch.ask("again", model="v1/faulty")["type"] == "completed"


BEFORE = {
    "cut short": (cut, "short"),
    "deleted": (remove, "holds no weights"),
    "made a folder": (make_a_folder, "holds no weights"),
    "that cannot be read (EIO)": (make_unreadable, "Input/output error"),
}


@pytest.mark.parametrize("what", BEFORE)
def test_weights_that_change_between_detection_and_loading(
    drawing: Callable[..., Drawing], table: Table, opening: Opening, base: Path, what: str
) -> None:
    change, said = BEFORE[what]
    with table.survived(f"weights {what} before they are loaded", drawing(base)) as watch:
        with opening.of(base / CONFIG, lambda: change(base / WEIGHTS)):
            error = watch.ask(model="v1/faulty")["error"]
        assert error["code"] == "model_broken"
        assert said in error["message"] and "v1/faulty" in error["message"]
        put_back(base)
        assert watch.ask("again", model="v1/faulty")["type"] == "completed"


def put_back(base: Path) -> None:
    shutil.rmtree(base / "v1" / "faulty")
    shutil.copytree(base / "v1" / "plain", base / "v1" / "faulty")


@pytest.mark.parametrize("moment", ["before", "while"])
def test_a_base_path_that_goes_and_comes_back(
    drawing: Callable[..., Drawing], table: Table, opening: Opening, base: Path, moment: str
) -> None:
    """As a disk that is unmounted does."""
    path, raw = (base / WEIGHTS, True) if moment == "while" else (base / CONFIG, False)
    away = base.with_name("away")
    with table.survived(
        f"the folder of models gone {moment} a model is loaded", drawing(base)
    ) as watch:
        with opening.of(path, lambda: move(base, away), raw=raw):
            assert watch.ask(model="v1/faulty")["error"]["code"] == "model_broken"
        # for a name that is not there the disk is looked at; the others are in memory or not
        for model in ("v1/none", "v1/plain", "v1/faulty"):
            gone = watch.ask(model, model=model)["error"]
            assert (gone["code"], gone["field"]) == ("model_not_found", "model")
        away.rename(base)
        assert watch.ask("again", model="v1/faulty")["type"] == "completed"
