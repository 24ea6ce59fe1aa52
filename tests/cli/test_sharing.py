"""A server that other computers may use: from `runai certificate` to a picture, and back."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certificates
import pytest

from runai.cli import keys, main
from runai.client import Client
from runai.errors import ConnectionLost, NoServer, NotTrusted, TlsRequired, Unauthorized
from runai.schema.requests import TextToImage
from runai.streams.contexts import Trust
from runai.testing.scripted import ScriptedEngine
from tests.cli.conftest import SERVE

Start = Callable[..., Any]


@pytest.fixture
def pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> certificates.Pair:
    made = certificates.make(tmp_path / "made")
    capsys.readouterr()
    return made


def sharing(pair: certificates.Pair) -> list[str]:
    return [
        *("--port", "0", "--keep-alive", "--token-file", str(pair.token)),
        *("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)),
    ]


def asking(pair: certificates.Pair, port: int) -> list[str]:
    return [
        *("--host", "127.0.0.1", "--port", str(port), "--token-file", str(pair.token)),
        *("--tls-cert", str(pair.certificate)),
    ]


def draws(client: Client) -> str:
    return [*client.generate(TextToImage(id="1", prompt="a red circle"))][-1].type


def test_what_is_made_for_sharing_leads_to_a_picture(
    start: Start, pair: certificates.Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = start("-c", SERVE, *sharing(pair))
    said = child.wait_for(r"port (\d+), (.*)\.")
    assert said[2] == "with TLS and a token"
    to_server = asking(pair, int(said[1]))
    assert main(["status", *to_server]) == 0
    assert "state" in capsys.readouterr().out
    out = tmp_path / "out.png"
    assert main(["generate", "a red circle", "-o", str(out), *to_server]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert main(["models", *to_server]) == 0
    child.signal(signal.SIGTERM)
    assert child.end() == 0
    token = pair.token.read_text().strip()
    assert token not in child.seen and token not in capsys.readouterr().err


def test_who_lacks_a_part_of_it_is_told_which(start: Start, pair: certificates.Pair) -> None:
    child = start("-c", SERVE, *sharing(pair))
    port = int(child.wait_for(r"port (\d+)")[1])
    token = pair.token.read_text().strip()
    trust = Trust(pair.certificate)
    with Client("127.0.0.1", port, trust=trust) as client, pytest.raises(Unauthorized):
        client.connect()
    with Client("127.0.0.1", port, token=token) as client, pytest.raises(TlsRequired):
        client.connect()
    with (
        Client("127.0.0.1", port, token=token, trust=Trust()) as client,
        pytest.raises(NotTrusted),
    ):
        client.connect()
    with Client("127.0.0.1", port, token=token, trust=trust) as client:
        assert draws(client) == "completed"


def test_tls_where_none_is_spoken_is_said_to_be_so(start: Start, pair: certificates.Pair) -> None:
    child = start("-c", SERVE, "--port", "0", "--keep-alive")
    port = int(child.wait_for(r"port (\d+)")[1])
    with (
        Client("127.0.0.1", port, trust=Trust(pair.certificate)) as client,
        pytest.raises(ConnectionLost, match="There is no TLS") as caught,
    ):
        client.connect()
    assert not isinstance(caught.value, NoServer)  # one is there


def test_keys_are_read_anew_on_sighup_and_nobody_is_dropped(
    start: Start, pair: certificates.Pair
) -> None:
    child = start("-c", SERVE, *sharing(pair))
    port = int(child.wait_for(r"port (\d+)")[1])
    old = Trust(pair.certificate)
    old_token = pair.token.read_text().strip()
    with Client("127.0.0.1", port, token=old_token, trust=old) as early:
        early.connect()
        kept = pair.certificate.rename(pair.certificate.with_name("old.pem"))
        certificates.make(pair.certificate.parent)
        child.signal(signal.SIGHUP)
        child.wait_for("read again")
        assert draws(early) == "completed"
        new_token = pair.token.read_text().strip()
        new = Trust(pair.certificate)
        for token, trust, error in (
            (new_token, Trust(kept), NotTrusted),
            (old_token, new, Unauthorized),
        ):
            late = Client("127.0.0.1", port, token=token, trust=trust)
            with late, pytest.raises(error):
                late.connect()
        with Client("127.0.0.1", port, token=new_token, trust=new) as late:
            assert draws(late) == "completed"
    child.signal(signal.SIGTERM)
    assert child.end() == 0


def test_files_that_are_wrong_on_sighup_change_nothing(
    start: Start, pair: certificates.Pair
) -> None:
    child = start("-c", SERVE, *sharing(pair))
    port = int(child.wait_for(r"port (\d+)")[1])
    token = pair.token.read_text().strip()
    pair.key.write_text("no key")
    child.signal(signal.SIGHUP)
    child.wait_for("stay as they were")
    with Client("127.0.0.1", port, token=token, trust=Trust(pair.certificate)) as client:
        assert draws(client) == "completed"


def test_a_pipe_instead_of_a_file_is_an_error_and_nobody_waits_for_its_other_end(
    start: Start, pair: certificates.Pair
) -> None:
    child = start("-c", SERVE, *sharing(pair))
    child.wait_for(r"port (\d+)")
    for file in (pair.token, pair.certificate):
        kept = file.rename(file.with_name("kept"))
        os.mkfifo(file)
        child.signal(signal.SIGHUP)
        child.wait_for("stay as they were")
        kept.rename(file)
    child.signal(signal.SIGHUP)
    child.wait_for("read again")
    child.signal(signal.SIGTERM)
    assert child.end() == 0


def test_a_closed_terminal_ends_a_server_that_has_nothing_to_read(start: Start) -> None:
    child = start("-c", SERVE, "--port", "0", "--keep-alive")
    child.wait_for(r"port (\d+)")
    child.signal(signal.SIGHUP)
    assert child.end() == -signal.SIGHUP


def test_a_server_needs_both_files_or_says_so(
    pair: certificates.Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    for half in (["--tls-cert", str(pair.certificate)], ["--tls-key", str(pair.key)]):
        assert main(["--port", "0", *half], make_engine=ScriptedEngine) == 2
        assert "both --tls-cert and --tls-key" in capsys.readouterr().err


def test_a_list_of_clients_without_a_certificate_of_its_own_is_not_passed_over(
    pair: certificates.Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--port", "0", "--timeout", "--tls-client-ca", str(pair.certificate)]
    assert main(words, make_engine=ScriptedEngine) == 2
    assert "both --tls-cert and --tls-key" in capsys.readouterr().err


def test_believing_this_computers_certificates_serves_nobody(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_TOKEN", "correct horse battery staple")
    words = ["--host", "0.0.0.0", "--port", "0", "--tls"]
    assert main(words, make_engine=ScriptedEngine) == 2
    assert "both --tls-cert and --tls-key" in capsys.readouterr().err


def test_private_files_that_others_can_read_are_warned_of(
    start: Start, pair: certificates.Pair
) -> None:
    pair.key.chmod(0o644)
    child = start("-c", SERVE, *sharing(pair))
    assert (
        str(pair.key) in child.wait_for("can be read by other users")[0] or "key.pem" in child.seen
    )
    assert str(pair.token) not in child.seen


def test_a_private_file_that_is_gone_is_read_by_nobody(tmp_path: Path) -> None:
    assert not keys.is_exposed(tmp_path / "key.pem")


def test_a_unix_socket_serves_and_is_asked_like_a_port(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listen = f"unix:{tmp_path / 'runai.sock'}"
    child = start("-c", SERVE, "--listen", listen)
    child.wait_for(re.escape(f"Listening on {listen}."))
    assert main(["status", "--listen", listen]) == 0
    out = tmp_path / "out.png"
    assert main(["generate", "a red circle", "-o", str(out), "--listen", listen]) == 0
    assert out.exists()
    assert child.end() == 0  # its client has left
    assert not (tmp_path / "runai.sock").exists()


def test_a_unix_socket_that_nobody_listens_on_is_no_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--listen", f"unix:{tmp_path / 'none'}"]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err


# The files.


def test_the_private_files_are_private_and_the_certificate_is_not(pair: certificates.Pair) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in pair}
    assert modes == {"certificate.pem": 0o644, "key.pem": 0o600, "token": 0o600}
    assert len(pair.token.read_text().strip()) >= 32


def test_nothing_is_overwritten_without_force(
    pair: certificates.Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [path.read_bytes() for path in pair]
    words = ["certificate", "--into", str(pair.key.parent)]
    assert main(words) == 2
    assert "there already" in capsys.readouterr().err
    assert [path.read_bytes() for path in pair] == before
    assert main([*words, "--force"]) == 0
    assert all(path.read_bytes() != old for path, old in zip(pair, before, strict=True))


def test_the_certificate_has_this_computers_names_and_those_that_were_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryptography import x509

    made = certificates.make(tmp_path, "--name", "gpu.lan", "--name", "192.0.2.1", "--days", "30")
    read = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"gpu.lan", "localhost", socket.gethostname()} <= set(
        names.get_values_for_type(x509.DNSName)
    )
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    assert {"192.0.2.1", "127.0.0.1", "::1"} <= set(addresses)
    assert (read.not_valid_after_utc - read.not_valid_before_utc).days == 31
    said = capsys.readouterr().out
    assert "--host gpu.lan" in said
    assert str(made.token) in said and made.token.read_text().strip() not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--days", "0"], "--days: 0 is not from 1 to 36500"),
        (["--days", "36501"], "--days: 36501 is not"),
        (["--name", "münchen"], "no name or address"),
        (["--into", "/proc/nowhere"], "cannot be written"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["certificate", "--into", str(tmp_path), *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
