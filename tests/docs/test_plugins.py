"""What docs/plugins.md quotes of the client is the client, and its own Python runs."""

from __future__ import annotations

import ast
import base64
import socket
import sys
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
from documents import ROOT, blocks, read

CLIENT = (ROOT / "client_example" / "client.py").read_text(encoding="utf-8")
PYTHON = blocks(read("docs/plugins.md"), "python")
QUOTED = [block for block in PYTHON if block in CLIENT]
OWN = [block for block in PYTHON if block not in CLIENT]


def names_of(blocks_: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for source in blocks_:
        exec(source, found)  # noqa: S102 (that of our own page)
    return found


PAGE = names_of(OWN)


def test_every_piece_of_the_client_is_walked_through() -> None:
    """But for imports, signatures and what only a program needs."""
    functions = [node for node in ast.parse(CLIENT).body if isinstance(node, ast.FunctionDef)]
    shown = "".join(QUOTED)
    parts = [
        ast.get_source_segment(CLIENT, part) or ""
        for function in functions
        if f"def {function.name}" not in shown
        for part in function.body
    ]
    unseen = [part.splitlines()[0] for part in parts if part not in shown]
    assert unseen == [
        '"""Send a request and follow it to its last answer: completed, failed or canceled."""',
        'raise ConnectionError("The server closed the connection.")',
        "try:",  # to connect, and else to say that there is no server
        "with connection:",
    ]


def test_only_the_examples_of_the_page_are_not_the_clients() -> None:
    functions = {name for name, value in PAGE.items() if isinstance(value, FunctionType)}
    assert functions >= {"preview_of", "connect_soon", "start_server", "serving"}
    assert len(OWN) == 4


def test_previews_are_decoded() -> None:
    png = base64.b64encode(b"a picture").decode()
    assert PAGE["preview_of"]({"type": "preview", "png": png, "index": 2}) == (b"a picture", 2)
    assert PAGE["preview_of"]({"type": "progress"}) is None


def test_a_server_that_listens_a_little_later_is_reached() -> None:
    """The port is bound and refuses until another thread has it listen."""
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        host, port = late.getsockname()
        with pytest.raises(ConnectionRefusedError):
            PAGE["connect_soon"](host, port, patience_s=0)
        opening = threading.Timer(0.2, late.listen)
        opening.start()
        with PAGE["connect_soon"](host, port) as connection:
            assert connection.getpeername() == (host, port)
        opening.join()


def test_the_program_is_started_as_the_page_says() -> None:
    """A wrong port is something that it ends with at once."""
    server = PAGE["start_server"]([sys.executable, "-m", "runai"], -1)
    assert server.wait(30) == 2


@pytest.mark.parametrize("test", [name for name in PAGE if name.startswith("test_")])
def test_the_tests_of_the_page_pass(test: str) -> None:
    check: Callable[[], None] = PAGE[test]
    check()
