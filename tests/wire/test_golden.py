"""Byte files with what a server must understand of them, for this and any other implementation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from runai.wire.connection import Message, WireEvent
from tests.wire.feeding import feed, server, single_bytes

FILES = sorted((Path(__file__).parent / "golden").glob("*/*.bin"))


def shown(event: WireEvent) -> list[str]:
    name = type(event).__name__
    return [name, event.body.decode()] if isinstance(event, Message) else [name]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
@pytest.mark.parametrize("cut", [lambda data: [data], single_bytes], ids=["whole", "byte by byte"])
def test_a_golden_file_gives_its_events(file: Path, cut: Callable[[bytes], list[bytes]]) -> None:
    wanted = json.loads(file.with_suffix(".json").read_text("utf-8"))
    connection = server(wanted["packet_size"], wanted["max_message_bytes"])
    events = feed(connection, cut(file.read_bytes()))
    assert [shown(event) for event in events] == wanted["events"]


def test_there_are_golden_files_of_both_kinds() -> None:
    assert {file.parent.name for file in FILES} == {"valid", "invalid"}
