"""The client of one file works, and is as small and as independent as it claims."""

from __future__ import annotations

import ast
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certificates
import pytest
from PIL import Image

from runai.errors import NotFinite
from runai.testing.scripted import Fault, ScriptedEngine
from tests.cli.conftest import SERVE

CLIENT = Path(__file__).parents[2] / "client_example" / "client.py"


def test_it_saves_the_picture(
    running: Callable[..., Any], start: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "circle.png"
    with running(ScriptedEngine()) as port:
        child = start(str(CLIENT), "a red circle", str(path), "localhost", str(port))
        assert child.end() == 0
    assert "loading shapes\n" in child.out
    assert f"{path} (seed " in child.out
    with Image.open(path) as picture:
        picture.load()


@pytest.mark.parametrize("words", [[], ["--help"], list("abcdef")])
def test_wrong_words_are_answered_with_how_it_is_used(
    start: Callable[..., Any], words: list[str]
) -> None:
    child = start(str(CLIENT), *words)
    assert child.end() == 1
    assert child.seen == "Usage: client.py PROMPT [FILE [HOST [PORT [CERTIFICATE]]]]\n"


def test_it_says_why_a_request_failed(
    running: Callable[..., Any], start: Callable[..., Any], tmp_path: Path
) -> None:
    engine = ScriptedEngine(faults={"1": Fault(NotFinite("The model gave NaN."), 1)})
    with running(engine) as port:
        child = start(str(CLIENT), "p", str(tmp_path / "o.png"), "localhost", str(port))
        assert child.end() == 1
    assert child.seen.startswith("The model gave NaN. ")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_cancels(
    running: Callable[..., Any],
    start: Callable[..., Any],
    another: Callable[[int], None],
    tmp_path: Path,
) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    engine.gate.let_pass(1)
    with running(engine) as port:
        child = start("-u", str(CLIENT), "p", str(tmp_path / "o.png"), "localhost", str(port))
        assert child.process.stdout.readline() == "loading shapes\n"  # it listens to Ctrl-C
        engine.gate.wait_until_reached()
        child.signal(signal.SIGINT)
        assert child.end() == 1
        engine.gate.open()
        another(port)
    assert child.seen == ""
    assert engine.requests("drop") == ["1"]


def test_it_reaches_a_server_that_wants_a_token_and_speaks_tls(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = certificates.make(tmp_path)
    server = start(
        *("-c", SERVE, "--port", "0", "--keep-alive", "--token-file", str(pair.token)),
        *("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)),
    )
    where = ("127.0.0.1", server.wait_for(r"port (\d+)")[1], str(pair.certificate))
    path = tmp_path / "o.png"
    without = start(str(CLIENT), "p", str(path), *where)
    assert without.end() == 1
    assert without.seen.startswith("This server wants a token")
    monkeypatch.setenv("RUNAI_TOKEN", pair.token.read_text().strip())
    assert start(str(CLIENT), "p", str(path), *where).end() == 0
    assert path.exists()


def test_it_is_small_and_needs_the_standard_library_alone() -> None:
    text = CLIENT.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    imported = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
