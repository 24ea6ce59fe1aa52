"""The plugin's packets are the server's, however a stream is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runai_krita import wire

from runai.wire.packets import encode

MESSAGES = [{"a": 1}, {"text": "x" * (1024 - 12)}, {"ü": "☃" * 900}, {}]


@pytest.mark.parametrize("length", [1, 1011, 1012, 1013, 2036, 5000])
def test_what_it_sends_is_what_the_server_would_send(length: int) -> None:
    message = {"text": "x" * length}
    body = ('{"text": "' + "x" * length + '"}').encode()
    assert wire.encode(message) == encode(body, 1024)


@given(st.lists(st.integers(1, 3000), max_size=20))
def test_messages_come_out_whole_however_the_stream_is_cut(cuts: list[int]) -> None:
    stream = b"".join(wire.encode(message) for message in MESSAGES)
    reader, heard = wire.Reader(), list[Any]()
    for cut in [*cuts, len(stream)]:
        heard += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert heard == MESSAGES


@pytest.mark.parametrize("body", [b"[]", b"null", b"{", b"\xff\xfe", b"", b"{}{}", b"HTTP/1.1 400"])
def test_what_is_no_object_is_garbled_and_what_came_before_is_heard(body: bytes) -> None:
    reader, heard = wire.Reader(), list[Any]()
    data = wire.encode({"first": 1}) + body + bytes(-len(body) % 1024) + bytes(1024)
    with pytest.raises(wire.Garbled):
        heard.extend(reader.feed(data))
    assert heard == [{"first": 1}] or heard == []


def test_messages_before_garbage_are_yielded() -> None:
    feed = wire.Reader().feed(wire.encode({"first": 1}) + b"?" * 1024 + bytes(1024))
    assert next(feed) == {"first": 1}
    with pytest.raises(wire.Garbled):
        next(feed)


def test_a_message_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_BODY_BYTES", 4096)
    reader = wire.Reader()
    assert list(reader.feed(b"x" * 4096)) == []
    with pytest.raises(wire.Garbled, match="without an end"):
        list(reader.feed(b"x" * 1024))


def test_the_part_without_qt_needs_python_3_8_and_the_standard_library_alone() -> None:
    import ast
    import sys

    folder = Path(wire.__file__).parent
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
        imported = {
            alias.name if isinstance(node, ast.Import) else str(node.module)
            for node in ast.walk(tree)
            if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level)
            for alias in node.names
        }
        roots = {name.partition(".")[0] for name in imported}
        assert roots <= set(sys.stdlib_module_names) | {"krita", "PyQt5"}, path.name
        if path.stem in ("wire", "conversation", "connection", "starting", "geometry"):
            assert not roots & {"krita", "PyQt5"}, path.name
