"""How a server starts, and with which exit code it ends."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runai.settings
from runai.cli import main, serving
from runai.client import Client
from runai.errors import EngineError
from runai.schema.requests import TextToImage
from runai.settings import Settings
from runai.testing.scripted import ScriptedEngine
from runai.transports import listener
from runai.transports.gate import Gate
from tests.cli.conftest import SERVE

# the engine's gate is shut; a line on stdin opens it
GATED = """
import sys, threading
from runai.cli import main
from runai.testing.scripted import ScriptedEngine
engine = ScriptedEngine()
engine.gate.close()
opener = threading.Thread(target=lambda: (sys.stdin.readline(), engine.gate.open()))
opener.start()
sys.exit(main(sys.argv[1:], make_engine=lambda: engine))
"""
# connects whenever one of these is about to be imported; torch then is not to be had
WATCH_IMPORTS = """
import importlib.abc, socket, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
held = []
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("pydantic", "torch", "runai.jobs", "runai.schema"):
            held.append(socket.create_connection(("127.0.0.1", port), 5))
            print(name, flush=True)
        if name == "torch":
            while held:
                held.pop().close()
            raise ImportError("not on this computer")
sys.meta_path.insert(0, Watch())
from runai.cli import main
sys.exit(main())
"""
# the engine's imports never end, and do not mind what is not there
ENDLESS_IMPORTS = """
import importlib.abc, importlib.util, itertools, sys
class Endless(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name == "runai.engine.engine":
            return importlib.util.spec_from_loader(name, self)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        print("Importing.", file=sys.stderr, flush=True)
        for number in itertools.count():
            try:
                importlib.import_module(f"module_{number}")
            except ImportError:
                pass
sys.meta_path.insert(0, Endless())
from runai.cli import main
sys.exit(main())
"""
# nothing can be said about who may come in
SPEECHLESS = """
from runai.cli.serving import serve
from runai.settings import Settings
from runai.testing.scripted import ScriptedEngine
from runai.transports import listener
from runai.transports.gate import Gate
class Speechless(Gate):
    def describe(self):
        raise LookupError("no words")
serve(listener.bind("127.0.0.1", 0), Settings(), ScriptedEngine, Speechless())
"""
# the thread that accepts connections cannot be had
THREADLESS = """
import threading
from runai.cli.embedded import embedded
from runai.settings import Settings
from runai.testing.scripted import ScriptedEngine
class Refused(threading.Thread):
    def start(self):
        if self.name == "runai-embedded":
            raise RuntimeError("can't start new thread")
        super().start()
threading.Thread = Refused
with embedded(Settings(), ScriptedEngine):
    pass
"""
WAYS = {
    "runai": ("-c", "import sys; from runai.cli import main; sys.exit(main())"),
    "runai serve": ("-c", "import sys; from runai.cli import main; sys.exit(main())", "serve"),
    "python -m runai": ("-m", "runai"),
    "python server.py": ("server.py",),
}


def request(request_id: str = "1", **more: Any) -> TextToImage:
    return TextToImage(id=request_id, prompt="a red circle", **more)


def line_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_starting_serves(start: Callable[..., Any], way: str) -> None:
    child = start(*WAYS[way], "--port", "0", "--device", "cpu")
    port = int(child.wait_for(r"port (\d+)")[1])
    with Client("localhost", port) as client:
        assert client.connect().state in ("starting", "ready")


def test_the_server_ends_when_its_last_client_has_left(start: Callable[..., Any]) -> None:
    child = start("-c", GATED, "--port", "0")
    child.tell()
    port = int(child.wait_for(r"port (\d+)")[1])
    with Client("localhost", port) as first, Client("localhost", port) as second:
        first.connect()
        second.connect()
        first.close()
        assert second.status().state == "ready"
    assert child.end() == 0


def test_connections_are_accepted_before_anything_heavy_is_imported_and_without_torch_too(
    start: Callable[..., Any],
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = start("-c", WATCH_IMPORTS, "--port", str(port), "--keep-alive")
    assert child.end() == 1
    assert set(child.out.split()) == {"pydantic", "torch", "runai.jobs", "runai.schema"}
    last = child.seen.splitlines()[-1]
    assert last.startswith("runai: The engine cannot be imported: not on this computer.")
    assert last.endswith("[dependency_missing]")


def test_nobody_coming_in_time_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runai.settings.table, "ATTEMPT_S", 0.01)
    assert main(["--port", "0", "--timeout"], make_engine=ScriptedEngine) == 3


def test_a_busy_port_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert main(["serve", "--port", str(port)], make_engine=ScriptedEngine) == 1
    line = line_of(capsys)
    assert line.startswith("runai: ")
    assert str(port) in line
    assert line.endswith("[address_in_use]\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot 1"),
        (["--port", "x"], "--port: 'x' is not a whole number from 0 to 65535"),
        (["--por", "1"], "unrecognized arguments: --por 1"),
        (["--port"], "expected one argument"),
        (["--host", "0.0.0.0"], "needs a token (--token-file or RUNAI_TOKEN) and TLS"),
        (["--model-base-path", "/nowhere"], "'/nowhere' is not a folder"),
        (["--config", "/nowhere.toml"], "/nowhere.toml cannot be read"),
        (["serve", "fast"], "unrecognized arguments: fast"),
        (["draw"], "There is no command 'draw'"),
    ],
)
def test_a_wrong_word_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(words, make_engine=ScriptedEngine) == 2
    line = line_of(capsys)
    assert line.startswith("runai: ")
    assert said in line
    assert line.endswith("[invalid_setting]\n")


def test_a_wrong_variable_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_MAX_STEPS", "none")
    assert main([], make_engine=ScriptedEngine) == 2
    assert "RUNAI_MAX_STEPS: 'none' is not" in line_of(capsys)


def test_its_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(row.flag in text for row in runai.settings.ROWS.values())


def test_an_engine_that_cannot_be_made_ends_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    def make() -> ScriptedEngine:
        raise EngineError("No device.", hint="Buy one.")

    assert main(["--port", "0"], make_engine=make) == 1
    assert capsys.readouterr().err.endswith("runai: No device. Buy one. [engine]\n")


@pytest.mark.parametrize(
    ("script", "said"),
    [(SPEECHLESS, "LookupError: no words"), (THREADLESS, "RuntimeError: can't start")],
    ids=["serve", "embedded"],
)
def test_an_error_while_it_starts_ends_the_process(
    start: Callable[..., Any], script: str, said: str
) -> None:
    child = start("-c", script)
    assert child.end() == 1
    assert said in child.seen.splitlines()[-1]


def test_the_settings_reach_the_server() -> None:
    settings = Settings(port=0, max_steps=7, packet_size=64, max_message_bytes=4096)
    listeners = listener.bind("127.0.0.1", 0, packet_size=64)
    port = listeners[0].getsockname()[1]
    codes: list[int] = []
    thread = threading.Thread(
        target=lambda: codes.append(serving.serve(listeners, settings, ScriptedEngine, Gate()))
    )
    thread.start()
    with Client("127.0.0.1", port, packet_size=64) as client:
        capabilities = client.connect().capabilities
        assert (capabilities.max_steps, capabilities.max_message_bytes) == (7, 4096)
        *_, last = client.generate(request(num_inference_steps=8))
    assert last.type == "failed"
    thread.join(20)
    assert codes == [0]


def test_told_to_stop_it_finishes_what_is_being_drawn(start: Callable[..., Any]) -> None:
    child = start("-c", GATED, "--port", "0", "--grace-s", "60")
    port = int(child.wait_for(r"port (\d+)")[1])
    with Client("localhost", port) as client:
        answers = client.generate(request())
        while next(answers).type != "loading":
            pass
        child.signal(signal.SIGTERM)
        child.wait_for("Stopping")
        child.tell()
        *_, last = answers
        assert last.type == "completed"
    assert child.end() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_is_not_done_in_the_grace_time_is_canceled_and_the_exit_code_says_so(
    start: Callable[..., Any], number: int, code: int
) -> None:
    child = start("-c", GATED, "--port", "0", "--grace-s", "0")
    port = int(child.wait_for(r"port (\d+)")[1])
    with Client("localhost", port) as client:
        answers = client.generate(request())
        while next(answers).type != "loading":
            pass
        child.signal(number)
        *_, last = answers
        assert last.type == "canceled"
        child.tell()
    assert child.end() == code


def test_a_second_signal_ends_the_grace_time(start: Callable[..., Any]) -> None:
    child = start("-c", GATED, "--port", "0", "--grace-s", "3600")
    port = int(child.wait_for(r"port (\d+)")[1])
    with Client("localhost", port) as client:
        answers = client.generate(request())
        while next(answers).type != "loading":
            pass
        child.signal(signal.SIGINT)
        child.wait_for("Stopping")
        child.signal(signal.SIGTERM)
        *_, last = answers
        assert last.type == "canceled"
        child.tell()
    assert child.end() == 130


def test_a_signal_while_nothing_is_drawn_loses_nothing(start: Callable[..., Any]) -> None:
    child = start("-c", GATED, "--port", "0")
    child.wait_for(r"port (\d+)")
    child.signal(signal.SIGTERM)
    child.tell()
    assert child.end() == 0


def test_a_signal_while_the_engine_is_imported_does_not_wait_for_that(
    start: Callable[..., Any],
) -> None:
    child = start("-c", ENDLESS_IMPORTS, "--port", "0", "--grace-s", "3600")
    child.wait_for("Importing")
    child.signal(signal.SIGTERM)
    assert child.end() == 0
    assert "broken" not in child.seen and "Traceback" not in child.seen


def test_what_waits_for_the_engine_meanwhile_is_canceled(start: Callable[..., Any]) -> None:
    child = start("-c", ENDLESS_IMPORTS, "--port", "0", "--grace-s", "3600")
    port = int(child.wait_for(r"port (\d+)")[1])
    with Client("localhost", port) as client:
        answers = client.generate(request())
        assert next(answers).type == "accepted"
        child.signal(signal.SIGTERM)
        *_, last = answers
        assert last.type == "canceled"
    assert child.end() == 143
    assert "Traceback" not in child.seen


def test_the_log_has_one_line_a_record_and_no_prompts(start: Callable[..., Any]) -> None:
    child = start("-c", GATED, "--port", "0", "--log-level", "info")
    port = int(child.wait_for(r"port (\d+)")[1])
    child.tell()
    with Client("localhost", port) as client:
        assert [*client.generate(request())][-1].type == "completed"
    assert child.end() == 0
    assert "red circle" not in child.seen
    for line in child.seen.splitlines():
        assert " runai" in line
        assert line[:2] == "20"


HAND_OVER = """
import fcntl, os, socket, sys
socks = [socket.create_server((host, 0)) for host in sys.argv[1].split()]
print("port", socks[0].getsockname()[1], file=sys.stderr, flush=True)
# out of the way first
copies = [fcntl.fcntl(sock, fcntl.F_DUPFD, 50) for sock in socks]
for number, copy in enumerate(copies, 3):
    os.dup2(copy, number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(copies))}
os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], *sys.argv[3:]])
"""


def test_a_socket_that_a_supervisor_opened_is_served(start: Callable[..., Any]) -> None:
    child = start("-c", HAND_OVER, "127.0.0.1", SERVE, "--port", "1")
    port = int(child.wait_for(r"port (\d+)")[1])
    with Client("127.0.0.1", port) as client:
        assert [*client.generate(request())][-1].type == "completed"
    assert child.end() == 0


def test_one_that_other_computers_can_reach_is_refused_like_a_host(
    start: Callable[..., Any],
) -> None:
    child = start("-c", HAND_OVER, "0.0.0.0", SERVE)
    assert child.end() == 2
    assert "needs a token" in child.seen and "handed over" in child.seen


@pytest.mark.parametrize("hosts", ["0.0.0.0 127.0.0.1", "127.0.0.1 0.0.0.0"])
def test_one_of_several_that_other_computers_can_reach_needs_the_servers_own_tls(
    start: Callable[..., Any], tmp_path: Path, hosts: str
) -> None:
    token = tmp_path / "token"
    token.write_text("correct horse battery staple")
    child = start("-c", HAND_OVER, hosts, SERVE, "--token-file", str(token), "--tls")
    assert child.end() == 2
    assert "handed over: 0.0.0.0" in child.seen and "needs TLS (--tls-cert" in child.seen


def test_what_insecure_leaves_open_is_told_whichever_socket_it_is(
    start: Callable[..., Any],
) -> None:
    child = start("-c", HAND_OVER, "0.0.0.0 127.0.0.1", SERVE, "--insecure", "--timeout")
    child.wait_for("--insecure: everybody who reaches this server may use it")
