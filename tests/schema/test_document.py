"""What is generated in docs/ says what the code does, and so do the protocol's own examples."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from runai.cli.document import PARTS, main
from runai.errors import all_errors
from runai.schema import codec
from runai.schema.document import fill
from runai.wire.connection import Connection, Message, Role
from runai.wire.packets import encode

DOCS = Path(__file__).parents[2] / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text(encoding="utf-8")


PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_is_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert fill(text, PARTS) == text, "run python -m runai.cli.document docs/"


def test_every_generated_part_has_its_place() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"<!-- generated: ([\w-]+) -->", text)) == set(PARTS)


def test_writing_a_folder_fills_its_pages_and_leaves_the_prose(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- generated: samplers -->\nold\n<!-- end -->\nAfter.\n")
    main(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Before.\n")
    assert text.endswith("<!-- end -->\nAfter.\n")
    assert "| `ddim` | `_sgm_uniform` | DDIM, DDIMScheduler |" in text
    assert "old" not in text


def test_every_error_code_is_listed() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert all(f"| `{code}` |" in text for code in all_errors())


def test_every_error_code_has_a_place_to_link_to_in_troubleshooting() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    found = re.findall(r"^### `(\w+)`\n\n(.+)\n\nWhat to do: (.+) \(A command", text, re.MULTILINE)
    hints = {code: cls.default_hint for code, cls in all_errors().items()}
    assert {code: hint for code, _, hint in found} == hints


def test_the_bytes_of_the_worked_example_are_that_message() -> None:
    rows = re.findall(r"^((?:[0-9a-f]{2} ){8})", PROTOCOL, re.MULTILINE)
    stream = bytes.fromhex("".join(rows))
    assert stream == encode(b'{"type":"status"}', 8)
    reader = Connection(Role.SERVER, packet_size=8)
    reader.receive_data(stream)
    assert reader.next_event() == Message(b'{"type":"status"}')


def code_of_the_page() -> dict[str, Any]:
    (source,) = re.findall(r"```python\n(.*?)```", PROTOCOL, re.DOTALL)
    names: dict[str, Any] = {"json": json}
    exec(source, names)  # noqa: S102 (that of our own page)
    return names


@pytest.mark.parametrize("length", [0, 1000, 1013, 1014, 1015, 5000])
def test_the_python_of_the_page_sends_and_receives(length: int) -> None:
    page = code_of_the_page()
    message = {"text": "x" * length}
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(10)
        there.settimeout(10)
        page["send"](here, message)
        here.shutdown(socket.SHUT_WR)
        sent = b"".join(iter(lambda: there.recv(4096), b""))
        assert sent == encode(json.dumps(message).encode(), 1024)
        there.sendall(sent)
        there.shutdown(socket.SHUT_WR)
        stream = here.makefile("rb")
        with stream:
            assert page["receive"](stream) == message
            assert page["receive"](stream) is None


def test_every_line_of_the_conversation_is_valid() -> None:
    said = [json.loads(line[2:]) for line in PROTOCOL.splitlines() if line[:2] in ("→ ", "← ")]
    events = [message for message in said if message["type"] not in ("generate", "cancel")]
    kinds = {message["type"] for message in events}
    assert kinds >= {"hello", "accepted", "loading", "progress", "completed", "failed", "canceled"}
    for event in events:
        for image in event.get("images", []):
            image["png"] = "AAAA"  # the page shows the beginning of one only
        if "client" not in event:
            codec.parse_event(event)


def test_the_page_names_no_message_that_does_not_exist() -> None:
    titles = set(re.findall(r"^#### `(\w+)`", PROTOCOL, re.MULTILINE))
    assert "Undefined" not in PROTOCOL
    assert titles == {*codec.EVENT_TYPES, "generate", "cancel", "received", "convert"}
