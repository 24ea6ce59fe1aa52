"""The machine that reads pickles: what it builds, what it refuses, and how long it may take."""

from __future__ import annotations

import os
import pickle
import pickletools
import time
from pathlib import Path
from typing import Any

import hostile
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runai.engine import pickles
from runai.engine.pickles.machine import Damaged, Machine, Unsafe
from runai.errors import ModelBroken

DEEP = b")q\x00" + b"h\x00h\x00\x86q\x00" * 100  # each is a pair of the one before


def run(raw: bytes) -> Any:
    return Machine(raw).run()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_what_they_were(protocol: int) -> None:
    values = {
        "numbers": [0, -1, 255, 65535, 2**31, -(2**40), 0.5, True, False, None],
        "texts": ["", "ä", "x" * 300, "y" * 70_000],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), tuple(range(9))],
        "dicts": {"a": {}, "b": {"c": 1}},
        "lists": [[], [[]]],
    }
    assert run(pickle.dumps(values, protocol)) == values


def test_keys_that_are_no_text_are_passed_over() -> None:
    assert run(pickle.dumps({1: "a", (2,): "b", "c": "d", None: "e"}, 2)) == {"c": "d"}


def test_something_that_contains_itself_is_read() -> None:
    looped: dict[str, Any] = {"a": []}
    looped["b"] = looped
    found = run(pickle.dumps(looped, 2))
    assert found["b"] is found
    assert pickles.nested(found) == {}


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_of_any_protocol_is_unsafe(protocol: int) -> None:
    with pytest.raises(Unsafe, match="system"):
        run(pickle.dumps(hostile.Calls(os.system, "true"), protocol))


@pytest.mark.parametrize("name", hostile.OPCODES)
def test_every_way_to_import_something_is_closed(name: str) -> None:
    with pytest.raises((Unsafe, Damaged)):
        run(hostile.OPCODES[name])


def test_a_pickle_that_would_take_forever_ends_early() -> None:
    start = time.thread_time()
    # as keys they would be hashed 2 ** 100 times
    assert run(b"\x80\x02" + DEEP + b"0}h\x00K\x01s.") == {}
    assert run(b"\x80\x02" + DEEP + b"0}(h\x00K\x01u.") == {}
    with pytest.raises(Damaged):  # as a name they would be as long
        run(b"\x80\x04" + DEEP + b"h\x00\x93.")
    with pytest.raises(Damaged, match="steps"):
        Machine(b"N0" * 10**5 + b".").run(max_steps=1000)
    assert time.thread_time() - start < 2


LONG = pickle.dumps((None,) * 100_000, 2)[2:-1] + b"q\x010"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "again",
    [
        REBUILD + b"h\x01R0",  # arguments
        REBUILD + b"(NK\x00)h\x01tR0",  # strides
        b"h\x01Q0",  # a storage's description
        b"X\x0a\x00\x00\x00omegaconf.h\x02\x930",  # a name
    ],
)
def test_what_is_made_once_is_not_copied_again_and_again(again: bytes) -> None:
    text = b"X" + (10**6).to_bytes(4, "little") + b"x" * 10**6 + b"q\x020"
    start = time.thread_time()
    with pytest.raises(Damaged):
        run(b"\x80\x02" + LONG + text + again * 20_000 + b"N.")
    assert time.thread_time() - start < 2


def test_keys_of_storages_are_not_hashed_unless_they_are_text(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "m.pt").read_bytes()
    keys = whole.rindex(b"\x80\x02]")
    (tmp_path / "m.pt").write_bytes(whole[:keys] + b"\x80\x02" + DEEP + b"0]h\x00a.")
    with pytest.raises(ModelBroken, match="absurd key"):
        pickles.read(tmp_path / "m.pt")


def test_dicts_within_dicts_are_gone_through_once(tmp_path: Path) -> None:
    content: Any = {"x": torch.zeros(1)}
    for _ in range(4):
        content = {str(i): content for i in range(200)}
    start = time.thread_time()
    torch.save(content, tmp_path / "m.pt")
    assert list(pickles.nested(pickles.read(tmp_path / "m.pt"))) == ["0.0.0.0.x"]
    assert time.thread_time() - start < 2


def test_dicts_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    content: Any = {"x": torch.zeros(1)}
    for _ in range(10):
        content = {"a": content}
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ModelBroken, match="deeply"):
        pickles.nested(pickles.read(tmp_path / "m.pt"))


@settings(max_examples=300)
@given(st.data())
def test_no_pickle_breaks_the_machine(data: st.DataObject) -> None:
    """Random programs of real opcodes: an answer or one of two errors."""
    codes = [op.code.encode("latin-1") for op in pickletools.opcodes]
    steps = st.one_of(st.sampled_from(codes), st.binary(max_size=4))
    raw = b"".join(data.draw(st.lists(steps, max_size=60))) + b"."
    try:
        Machine(raw).run(max_steps=1000)
    except (Damaged, Unsafe) as error:
        assert str(error)
