"""`runai doctor`: what is well is told as such, what is not comes with what to do."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import certificates
import headers
import pytest
from packaging.requirements import Requirement

import runai
from runai.cli import doctor, main
from runai.cli.checks import CHECKS, Check, Finding, device, machine, made, models, packages, port
from runai.cli.checks.packages import Wanted, optional, required, wanted
from runai.cli.checks.private import private_files
from runai.settings import Settings
from runai.testing.scripted import ScriptedEngine
from tests.cli.conftest import SERVE

Capture = pytest.CaptureFixture[str]
QUICK = ("--quick", "--port", "0")


def examined(capsys: Capture, *words: str) -> tuple[int, dict[str, list[Finding]]]:
    """The exit code, and the findings by the name of their check."""
    code = main(["doctor", "--json", *words])
    found: dict[str, list[Finding]] = {}
    for one in json.loads(capsys.readouterr().out):
        found.setdefault(one.pop("check"), []).append(Finding(**one))
    return code, found


def state_of(findings: Sequence[Finding]) -> list[str]:
    return [finding.state for finding in findings]


def put_torch(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """The child finds this torch before any other."""
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(code)
    root = Path(runai.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{root}")


# --- the whole of it -----------------------------------------------------------------------


def test_an_installation_that_is_well_is_found_to_be_and_draws(
    capsys: Capture, tmp_path: Path
) -> None:
    code, found = examined(capsys, "--port", "0", "--model-base-path", str(tmp_path))
    assert list(found) == [check.name for check in CHECKS]
    assert code == 0, found
    assert re.fullmatch(r"128 × 128 pixels with v1/shapes in [\d.]+ s", found["drawing"][0].found)


def test_what_is_wrong_is_a_line_with_a_sign_and_one_with_what_to_do(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_torch(monkeypatch, tmp_path, "raise ImportError('libcudart.so.99 is missing')")
    assert main(["doctor", *QUICK]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if "libcudart" in line)
    assert lines[at].startswith("✗ torch ")
    assert re.match(r" +→ .*pip install", lines[at + 1])
    assert lines[0].startswith("✓ python ")


def test_without_torch_that_alone_is_said_and_the_rest_is_examined_all_the_same(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_torch(monkeypatch, tmp_path, "raise ModuleNotFoundError(\"No module named 'torch'\")")
    code, found = examined(capsys, *QUICK)
    assert code == 1
    assert state_of(found["torch"]) == ["problem"]
    assert "No module named 'torch'" in found["torch"][0].found
    assert not set(found) & {"device", "numbers", "threads", "drawing"}
    assert "vocabulary" in found and "example" in found


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "It ended by SIGILL"),
        ("import sys; sys.exit('no such GPU')", "It ended with code 1, and said: no such GPU"),
        ("import threading; threading.Event().wait()", "It was not done after 2 s."),
    ],
)
def test_a_torch_that_ends_its_process_or_hangs_is_named(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, end: str
) -> None:
    if "not done" in end:
        monkeypatch.setattr(doctor, "PATIENCE_S", 2.0)
    put_torch(monkeypatch, tmp_path, code)
    exit_code, found = examined(capsys, *QUICK)
    assert exit_code == 1
    assert found["torch"][0].found.startswith(end)
    assert found["torch"][0].do


def test_a_setting_that_is_wrong_is_a_finding_and_a_flag_that_is_not_there_an_error(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_torch(monkeypatch, tmp_path, "raise ImportError")  # quick
    code, found = examined(capsys, *QUICK, "--dtype", "fp99")
    assert code == 1
    assert state_of(found["settings"]) == ["problem"]
    assert "fp99" in found["settings"][0].found
    assert found["settings"][0].do == "Correct --dtype."
    assert "python" in found
    assert main(["doctor", "--fast"]) == 2


def test_a_device_that_is_not_there_is_a_problem_and_nothing_is_drawn(capsys: Capture) -> None:
    code, found = examined(capsys, "--port", "0", "--device", "cuda:7")
    assert code == 1
    assert "There is no device cuda:7" in found["device"][0].found
    assert "--device cpu" in found["device"][0].do
    assert not set(found) & {"numbers", "drawing"}


def test_a_check_that_cannot_be_made_is_a_problem() -> None:
    (finding,) = made(Check("odd", "nowhere", "nothing"), Settings())
    assert finding.state == "problem"
    assert "ModuleNotFoundError" in finding.found and finding.do


def test_signs_are_plain_where_the_output_is() -> None:
    assert "".join(doctor.PLAIN_SIGNS.values()).isascii()
    assert set(doctor.PLAIN_SIGNS) == set(doctor.SIGNS)


@pytest.mark.parametrize(
    ("encoding", "line"), [("ascii", "x odd            a?\n"), ("utf-8", "✗ odd            aé\n")]
)
def test_what_the_output_has_no_letters_for_is_replaced(
    encoding: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.BytesIO()
    with io.TextIOWrapper(out, encoding=encoding) as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        doctor._print("odd", Finding("problem", "aé", "Do it."))
        said = out.getvalue().decode(encoding)
        monkeypatch.undo()
    assert said.startswith(line)
    assert said.endswith(" Do it.\n")


# --- packages ------------------------------------------------------------------------------


def test_a_package_that_is_missing_or_of_another_version_is_named_with_the_command() -> None:
    asked = [
        Requirement("no-such-package-here>=1"),
        Requirement("pydantic<1"),
        Requirement("numpy"),
    ]
    missing, old = required(Settings(), Wanted(">=3", asked, {}))
    assert missing == Finding(
        "problem",
        "no-such-package-here is not installed.",
        "Run: pip install 'no-such-package-here>=1'",
    )
    version = metadata.version("pydantic")
    assert old.found == f"pydantic {version} is not <1."
    assert old.do == "Run: pip install 'pydantic<1'"


def test_extras_that_are_missing_are_no_fault_and_those_of_another_version_are() -> None:
    extras = {
        "a": [Requirement("no-such-package-here")],
        "b": [Requirement("numpy<1")],
        "c": [Requirement("numpy")],
    }
    absent, old, there = optional(Settings(), Wanted(">=3", [], extras))
    assert (absent.state, old.state, there.state) == ("ok", "warning", "ok")
    assert absent.found.startswith("a: not installed")
    assert old.do == "Run: pip install 'numpy<1'"


def test_what_is_asked_for_is_read_from_the_sources_or_else_from_the_metadata() -> None:
    of_sources, of_installation = wanted(), wanted(Path("/nowhere"))
    for asked in (of_sources, of_installation):
        names = {requirement.name for requirement in asked.packages}
        assert {"torch", "pydantic", "pillow"} <= names
        assert not names & {"pytest", "peft", "invisible-watermark"}
        assert [r.name for r in asked.extras["watermark"]] == ["invisible-watermark"]
        assert asked.python == ">=3.11"


def test_another_python_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.version_info", (3, 9, 1, "final", 0))
    (finding,) = packages.python(Settings())
    assert finding.state == "problem"
    assert finding.found == "3.9.1 is not >=3.11."


# --- the machine ---------------------------------------------------------------------------


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_of([*machine.memory(Settings())]) == ["ok"]
    monkeypatch.setattr(machine, "LEAST_MEMORY", 2**60)
    assert state_of([*machine.memory(Settings())]) == ["warning"]


def test_no_folder_for_temporary_files_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/nowhere"])
    (finding,) = machine.temp_folder(Settings())
    assert finding.state == "problem" and "TMPDIR" in finding.do


def test_shared_memory_that_is_full_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state_of([*machine.shared_memory(Settings(), tmp_path)]) == ["ok"]
    assert state_of([*machine.shared_memory(Settings(), tmp_path / "no")]) == ["ok"]
    monkeypatch.setattr(machine, "LEAST_SHARED", 2**60)
    assert state_of([*machine.shared_memory(Settings(), tmp_path)]) == ["problem"]


# --- the device ----------------------------------------------------------------------------


def test_a_number_format_that_computes_wrong_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(device="cpu", dtype="bf16")
    (well,) = device.number_formats(settings)
    assert (well.state, well.found) == ("ok", "bf16 is drawn in; right as well: fp32, fp16")
    monkeypatch.setitem(device.TOLERANCES, "bf16", 1e-9)
    (wrong,) = device.number_formats(settings)
    assert wrong.state == "problem"
    assert re.search(r"bf16.* does not work on cpu: a product is off by \d", wrong.found)
    assert wrong.do == "Start with --dtype fp32."


def test_processors_that_lie_idle_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(8))
    (finding,) = device.threads(Settings(device="cpu"))
    assert (finding.state, finding.do) == ("warning", "Unset OMP_NUM_THREADS.")
    assert finding.found.startswith("1 of 8 processors")


# --- models --------------------------------------------------------------------------------


def of(*bases: Path) -> Settings:
    return Settings(model_base_path=bases)


def test_a_folder_that_is_missing_or_open_to_everybody_is_a_warning(tmp_path: Path) -> None:
    inner = tmp_path / "open" / "v1"
    inner.mkdir(parents=True)
    (tmp_path / "well").mkdir()
    inner.chmod(0o777)
    missing, open_, well = models.folders(of(tmp_path / "no", tmp_path / "open", tmp_path / "well"))
    assert missing.found == f"There is no folder {tmp_path / 'no'}."
    assert open_.do == f"Run: chmod o-w '{inner}'"
    assert (missing.state, open_.state, well.state) == ("warning", "warning", "ok")


def test_models_are_counted_and_what_is_no_model_is_named_with_the_reason(tmp_path: Path) -> None:
    headers.write(tmp_path / "v1" / "one.safetensors", headers.rows("sd1"))
    (tmp_path / "v1" / "torn.safetensors").write_bytes(b"\x09")
    well, torn = models.catalogue(of(tmp_path))
    assert (well.state, well.found) == ("ok", "1 of kind model")
    assert torn.state == "warning"
    assert torn.found.startswith("v1/torn.safetensors: ") and len(torn.found) > 25
    assert torn.do


def test_no_model_is_a_warning_that_says_how_to_get_one(tmp_path: Path) -> None:
    (finding,) = models.catalogue(of(tmp_path))
    assert finding.state == "warning" and "runai models get base-v1" in finding.do


def test_the_vocabulary_is_a_problem_only_where_a_model_needs_it(tmp_path: Path) -> None:
    (without,) = models.clip_vocabulary(of(tmp_path))
    assert without.state == "ok"
    headers.write(tmp_path / "v1" / "one.safetensors", headers.rows("sd1"))
    (needed,) = models.clip_vocabulary(of(tmp_path))
    assert needed.state == "problem"
    assert "v1/one" in needed.found and "runai models get vocabulary" in needed.do


def test_example_models_that_did_not_come_along_are_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "example_path", lambda: None)
    (finding,) = models.example(Settings())
    assert finding.state == "problem"


# --- the port ------------------------------------------------------------------------------


def at(number: int) -> Settings:
    return Settings(host="127.0.0.1", port=number)


def test_a_port_is_free_or_taken(dead_port: int) -> None:
    (taken,) = made(Check("port", "port", "port"), at(dead_port))
    assert taken.state == "problem"
    assert str(dead_port) in taken.found and "--port" in taken.do
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        number = sock.getsockname()[1]
    (free,) = port.port(at(number))
    assert free == Finding("ok", f"127.0.0.1:{number} is free")


def test_a_server_that_is_running_is_told_with_its_version(
    running: Callable[..., Any], stage: Any
) -> None:
    with running(ScriptedEngine()) as number:
        (own,) = port.port(at(number))
    assert own == Finding("ok", f"RunAI {runai.__version__} is running at 127.0.0.1:{number}")
    stage.play(lambda peer: (peer.welcome(), peer.wait_until_left()))
    (other,) = port.port(at(stage.port))
    assert (other.state, other.do) == ("warning", "Restart it.")
    assert other.found.startswith("RunAI 9 is running")


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_another_program_on_the_port_is_a_problem(stage: Any, says: bytes) -> None:
    def script(peer: Any) -> None:
        peer.socket.recv(4096)
        peer.socket.sendall(says)

    stage.play(script)
    (finding,) = made(Check("port", "port", "port"), at(stage.port))
    assert finding.state == "problem"
    assert "no RunAI" in finding.found and "--port" in finding.do


def test_a_program_that_never_answers_is_not_waited_for_long(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "TIMEOUT_S", 0.1)
    stage.play(lambda peer: peer.wait_until_left())
    (finding,) = port.port(at(stage.port))
    assert finding.state == "problem"


def test_a_server_that_has_no_seat_left_is_a_warning(running: Callable[..., Any]) -> None:
    with (
        running(ScriptedEngine(), max_connections=1) as number,
        socket.create_connection(("127.0.0.1", number)) as first,
    ):
        first.recv(1)  # the greeting: it has its seat
        (finding,) = port.port(at(number))
    assert finding.state == "warning"
    assert "clients are connected" in finding.found


def test_a_server_is_found_on_its_unix_socket_and_one_that_is_gone_leaves_it_free(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    settings = Settings(listen=f"unix:{path}", port=0)
    (free,) = port.port(settings)
    assert free == Finding("ok", f"unix:{path} is free") and not path.exists()
    child = start("-c", SERVE, "--listen", f"unix:{path}", "--keep-alive")
    child.wait_for("Listening")
    (own,) = port.port(settings)
    assert own == Finding("ok", f"RunAI {runai.__version__} is running at unix:{path}")
    child.signal(signal.SIGKILL)
    child.end()
    (left,) = port.port(settings)
    assert left == free
    path.unlink()
    path.touch()
    (taken,) = port.port(settings)
    assert taken.state == "problem" and "--listen" in taken.do


def test_a_server_with_tls_and_a_token_is_found(start: Callable[..., Any], tmp_path: Path) -> None:
    pair = certificates.make(tmp_path)
    words = ("--tls-cert", pair.certificate, "--tls-key", pair.key, "--token-file", pair.token)
    where = ("--host", "127.0.0.1", "--port", "0", "--keep-alive")
    child = start("-c", SERVE, *where, *map(str, words))
    number = int(child.wait_for(r"port (\d+)")[1])
    token = pair.token.read_text().strip()
    secured = replace(at(number), tls_cert=pair.certificate, tls_key=pair.key, token=token)
    (own,) = port.port(secured)
    assert own.state == "ok" and "is running" in own.found


def test_a_packed_program_asks_for_no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.frozen", True, raising=False)
    findings = [*packages.python(Settings()), *required(Settings()), *optional(Settings())]
    assert state_of(findings) == ["ok", "ok"]


# --- private files -------------------------------------------------------------------------


def test_private_files_that_others_can_read_are_a_problem(tmp_path: Path) -> None:
    pair = certificates.make(tmp_path)
    pair.token.chmod(0o640)
    secured = Settings(token_file=pair.token, tls_cert=pair.certificate, tls_key=pair.key)
    shared, well = private_files(secured)
    assert (shared.state, well.state) == ("problem", "ok")
    assert shared.do == f"Run: chmod 600 '{pair.token}'"
    (none,) = private_files(Settings())
    assert none.state == "ok"


def test_a_key_of_another_certificate_is_a_problem(tmp_path: Path) -> None:
    one, another = certificates.make(tmp_path / "one"), certificates.make(tmp_path / "another")
    secured = Settings(tls_cert=one.certificate, tls_key=another.key)
    check = next(check for check in CHECKS if check.name == "private files")
    (finding,) = made(check, secured)
    assert finding.state == "problem"
    assert str(another.key) in finding.found


def test_every_check_can_be_found() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    for check in CHECKS:
        assert not check.needs or names.index(check.needs) < names.index(check.name)
        assert not check.needs or next(c for c in CHECKS if c.name == check.needs).apart
