"""Hashes are computed in the background, when they are asked for and not before."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from runai.engine.hashes import BLOCK_BYTES, Hashes, Stamp, short_hash


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"weights" * BLOCK_BYTES)  # several blocks
    return path


def stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def test_a_hash_is_known_some_time_after_it_was_asked_for(file: Path) -> None:
    hashes = Hashes()
    assert hashes.known(file, stamp(file)) is None
    assert hashes.ask(file, stamp(file)) is None
    hashes.join()
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert hashes.known(file, stamp(file)) == hashes.ask(file, stamp(file)) == expected
    assert short_hash(expected) == expected[:10]


def test_no_thread_stays_when_nothing_is_left_to_do(file: Path) -> None:
    before = set(threading.enumerate())
    hashes = Hashes()
    for _ in range(3):
        hashes.ask(file, stamp(file))
    hashes.join()
    assert set(threading.enumerate()) == before
    hashes.ask(file, (0, 0))
    hashes.join()
    assert set(threading.enumerate()) == before


def test_a_file_that_is_not_the_one_asked_for_any_more_has_no_hash(file: Path) -> None:
    hashes, then = Hashes(), stamp(file)
    os.truncate(file, 5)
    hashes.ask(file, then)
    hashes.ask(file.with_name("gone"), then)
    hashes.join()
    assert hashes.known(file, then) is None
    assert hashes.known(file.with_name("gone"), then) is None


def test_stopping_ends_it_between_two_blocks_and_for_good(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.touch()
    os.truncate(path, 2**40)  # hours, if it were read to the end; takes no room on the disk
    hashes = Hashes()
    hashes.ask(path, stamp(path))
    hashes.stop()
    assert hashes.known(path, stamp(path)) is None
    assert hashes.ask(path, stamp(path)) is None
    assert "hashes" not in [thread.name for thread in threading.enumerate()]


def test_where_no_thread_can_be_had_it_is_tried_again_later(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # as Python says it

    hashes = Hashes()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot)
        assert hashes.ask(file, stamp(file)) is None
    hashes.join()
    hashes.ask(file, stamp(file))
    hashes.join()
    assert hashes.known(file, stamp(file)) == hashlib.sha256(file.read_bytes()).hexdigest()
    hashes.stop()
