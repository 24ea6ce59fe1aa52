"""A server that systemd starts when somebody connects, and that sleeps when nobody does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runai.cli import main
from runai.client import Client
from tests.cli.conftest import SERVE

# stands in for the user's systemd, which a test has none of: notes what it was asked
SYSTEMCTL = """#!/bin/sh
echo "$@" >>"$NOTES"
if [ "$2" = is-active ]; then echo active; fi
if [ "$2" = "$REFUSES" ]; then exit 1; fi
exit "${ENDS:-0}"
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return tmp_path / "notes"


@pytest.fixture
def units(tmp_path: Path) -> Path:
    return tmp_path / "config" / "systemd" / "user"  # see `plain_environment`


def install(*words: str) -> None:
    assert main(["service", "install", *words]) == 0


def line_of(path: Path, key: str) -> list[str]:
    lines = path.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def test_what_is_installed_listens_where_the_server_would(notes: Path, units: Path) -> None:
    install()
    listens = line_of(units / "runai.socket", "ListenStream")
    assert listens == ["127.0.0.1:50006", "[::1]:50006"]
    (command,) = line_of(units / "runai.service", "ExecStart")
    assert command.startswith(f'"{sys.executable}" "-P" "-m" "runai" "serve"')
    assert command.endswith('"--idle-exit-s" "600.0"')
    assert notes.read_text().splitlines() == [
        "--user show-environment",
        "--user daemon-reload",
        "--user enable runai.socket",
        "--user restart runai.socket",  # it may listen where the last installation had it
    ]


def test_a_unix_socket_and_other_ports_are_listened_on_too(notes: Path, units: Path) -> None:
    install("--listen", "unix:/tmp/runai.sock")
    assert line_of(units / "runai.socket", "ListenStream") == ["/tmp/runai.sock"]
    install("--host", "::1", "--port", "7")
    assert line_of(units / "runai.socket", "ListenStream") == ["[::1]:7"]


def test_the_server_is_started_with_what_was_said(
    notes: Path, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / '50% "off" $HOME'
    models.mkdir()
    monkeypatch.chdir(tmp_path)
    install(
        *("--model-base-path", models.name, "--max-steps", "30", "--idle-exit-s", "60"),
        *("--no-insecure", "--allow-convert"),
    )
    (command,) = line_of(units / "runai.service", "ExecStart")
    assert '"--max-steps" "30"' in command
    assert '"--idle-exit-s" "60.0"' in command and "600" not in command
    assert '"--no-insecure"' in command and '"--allow-convert"' in command
    assert f'"{tmp_path}/50%% \\"off\\" $$HOME"' in command


def test_settings_of_other_places_than_the_command_line_are_passed_on_too(
    notes: Path, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASE_DIR", str(tmp_path))
    monkeypatch.setenv("RUNAI_MAX_STEPS", "30")
    token = tmp_path / "token"
    token.write_text("correct horse battery staple")
    config = tmp_path / "other.toml"
    config.write_text(f'port = 7\nkeep_alive = true\ntoken_file = "{token}"\nmax_images = 16\n')
    install("--config", str(config))
    assert "127.0.0.1:7" in line_of(units / "runai.socket", "ListenStream")
    (command,) = line_of(units / "runai.service", "ExecStart")
    for words in (
        f'"--model-base-path" "{tmp_path}"',
        '"--max-steps" "30"',
        '"--keep-alive"',
        f'"--token-file" "{token}"',
    ):
        assert words in command
    assert "--max-images" not in command and "--port" not in command, "a default, and systemd's"


@pytest.mark.parametrize("words", ["--model-base-path {}", "--listen unix:{}/socket"])
def test_a_path_of_two_lines_is_refused_and_nothing_is_written(
    notes: Path, units: Path, tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models\nExecStartPre=evil"
    folder.mkdir()
    flag, _, value = words.partition(" ")
    assert main(["service", "install", flag, value.format(folder)]) == 2
    assert "line break" in capsys.readouterr().err
    assert not units.exists()


def test_a_socket_of_any_name_is_listened_on(notes: Path, units: Path) -> None:
    install("--listen", "unix:/tmp/50%u.sock")
    assert line_of(units / "runai.socket", "ListenStream") == ["/tmp/50%%u.sock"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_understands_the_files(notes: Path, units: Path) -> None:
    install("--max-steps", "30")
    words = ["systemd-analyze", "--user", "verify", *map(str, units.iterdir())]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    ours = [line for line in done.stderr.splitlines() if "runai." in line]
    assert ours == []


def test_what_was_installed_is_told_of_and_removed(
    notes: Path, units: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "status"]) == 1
    install()
    capsys.readouterr()
    assert main(["service", "status"]) == 0
    said = capsys.readouterr().out
    assert "listens  active" in said and "server   active" in said
    assert main(["service", "remove"]) == 0
    assert list(units.iterdir()) == []
    assert "--user disable --now runai.socket runai.service" in notes.read_text()
    assert main(["service", "remove"]) == 0
    assert "no service to remove" in capsys.readouterr().out


def test_a_token_that_systemd_would_not_have_is_refused(
    notes: Path, units: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNAI_TOKEN", "correct horse battery staple")
    assert main(["service", "install"]) == 2
    assert "--token-file" in capsys.readouterr().err
    assert not units.exists()


@pytest.mark.parametrize("action", ["install", "status", "remove"])
def test_a_systemd_that_does_not_answer_is_said_and_nothing_is_changed(
    action: str,
    notes: Path,
    units: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if action != "install":
        install()
    before = {path: path.read_bytes() for path in units.glob("*")}
    monkeypatch.setenv("ENDS", "1")
    capsys.readouterr()
    assert main(["service", action]) == 1
    said = capsys.readouterr()
    assert "`systemctl --user show-environment` failed" in said.err
    assert "log in on the computer" in said.err
    assert said.out == ""
    assert {path: path.read_bytes() for path in units.glob("*")} == before


def test_a_port_that_systemd_does_not_get_is_said(
    notes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REFUSES", "restart")
    assert main(["service", "install"]) == 1
    said = capsys.readouterr().err
    assert "`systemctl --user restart runai.socket` failed" in said
    assert "another program may listen there" in said


def test_a_computer_without_systemd_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["service", "install"]) == 1
    assert "no systemctl" in capsys.readouterr().err


@pytest.mark.skipif(
    not shutil.which("systemd-socket-activate"), reason="needs systemd-socket-activate"
)
def test_systemd_itself_hands_the_sockets_over_to_whom_it_starts(
    start: Callable[..., Any], dead_port: int
) -> None:
    # `dead_port` is taken by a socket that does not listen, on another address
    address = f"127.0.0.2:{dead_port}"
    launch = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    child = start(
        *("-c", launch, "systemd-socket-activate", "-l", address),
        *(sys.executable, "-c", SERVE, "--idle-exit-s", "1"),
    )
    child.wait_for("Listening on")
    with Client("127.0.0.2", dead_port) as client:
        client.connect()
        assert client.status().clients == 1
    assert child.end() == 0
    assert "nobody was there for a while" in child.seen
