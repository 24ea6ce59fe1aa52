"""TLS between two threads a side, over real sockets; the other end is often Python's own."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certificates
import pytest

from runai.errors import InvalidSetting, NotTrusted
from runai.streams import tls
from runai.streams.contexts import OwnCertificate, Trust, secure_client, server_context
from runai.streams.plain import PlainStream
from runai.streams.tls import TlsStream
from tests.streams.conftest import PATIENCE_S, Ends

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Both:
    """Runs a call on another thread, and gives its result or raises its error."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._result: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(call,))
        self._thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self._result = call()
        except Exception as error:  # noqa: BLE001 (raised where it is asked for)
            self._error = error

    def result(self) -> Any:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._result


def secured(
    ends: Ends,
    pair: certificates.Pair,
    trust: Trust,
    *,
    host: str = "localhost",
    client_ca: Path | None = None,
) -> tuple[TlsStream, TlsStream]:
    """A server's and a client's stream, after the handshake. Raises the client's error."""
    server = TlsStream(PlainStream(ends[0]), server_context(pair.own, client_ca))
    shaken = Both(lambda: server.handshake(PATIENCE_S))
    client = secure_client(PlainStream(ends[1]), trust, host, PATIENCE_S)
    shaken.result()
    return server, client


def test_both_directions_carry_much_at_once_on_two_threads_a_side(
    ends: Ends, pair: certificates.Pair
) -> None:
    server, client = secured(ends, pair, Trust(pair.certificate))
    sent = {id(server): os.urandom(3_000_001), id(client): os.urandom(2_999_999)}

    def read(stream: TlsStream, count: int) -> bytes:
        got = bytearray()
        while len(got) < count:
            got += stream.recv(PATIENCE_S) or b""
        return bytes(got)

    writers = [Both(lambda s=s: s.sendall(sent[id(s)])) for s in (server, client)]
    at_server = Both(lambda: read(server, 2_999_999))
    assert read(client, 3_000_001) == sent[id(server)]
    assert at_server.result() == sent[id(client)]
    for writer in writers:
        writer.result()


@pytest.mark.parametrize("version", VERSIONS)
def test_what_others_speak_is_understood(
    ends: Ends, pair: certificates.Pair, version: ssl.TLSVersion
) -> None:
    context = ssl.create_default_context(cafile=pair.certificate)
    context.minimum_version = context.maximum_version = version
    server = TlsStream(PlainStream(ends[0]), server_context(pair.own))
    shaken = Both(lambda: server.handshake(PATIENCE_S))
    with context.wrap_socket(ends[1], server_hostname="127.0.0.1") as client:
        shaken.result()
        client.sendall(b"a" * 100_000)
        got = b""
        while len(got) < 100_000:
            got += server.recv(PATIENCE_S) or b""
        server.sendall(b"bye")
        assert client.recv(10) == b"bye"
        server.end()
        assert client.recv(10) == b""  # a goodbye: a cut would raise


def test_tls_1_1_is_not_spoken(ends: Ends, pair: certificates.Pair) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    server = TlsStream(PlainStream(ends[0]), server_context(pair.own))
    shaken = Both(lambda: server.handshake(PATIENCE_S))
    with pytest.raises(ssl.SSLError, match=r"(?i)version"):
        context.wrap_socket(ends[1])
    with pytest.raises(ssl.SSLError):
        shaken.result()


def test_a_limit_in_time_holds_for_what_is_inside_tls(ends: Ends, pair: certificates.Pair) -> None:
    server, client = secured(ends, pair, Trust(pair.certificate))
    assert server.recv(0.05) is None
    client.sendall(b"now")
    assert server.recv(PATIENCE_S) == b"now"


def test_a_handshake_that_does_not_come_is_given_up(ends: Ends, pair: certificates.Pair) -> None:
    server = TlsStream(PlainStream(ends[0]), server_context(pair.own))
    with pytest.raises(TimeoutError):
        server.handshake(0.05)
    with pytest.raises(TimeoutError):
        server.handshake(0.05, b"\x16\x03\x01")  # a beginning of one


def test_a_stream_that_is_cut_ends_like_one_that_is_ended(
    ends: Ends, pair: certificates.Pair
) -> None:
    server, client = secured(ends, pair, Trust(pair.certificate))
    client.sendall(b"last words")
    ends[1].shutdown(socket.SHUT_WR)  # no goodbye of TLS's
    assert server.recv(PATIENCE_S) == b"last words"
    assert server.recv(PATIENCE_S) == b""
    assert server.recv(PATIENCE_S) == b""


def test_what_is_changed_on_the_way_is_an_error(ends: Ends, pair: certificates.Pair) -> None:
    server, _ = secured(ends, pair, Trust(pair.certificate))
    ends[1].sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ssl.SSLError):
        server.recv(PATIENCE_S)


def test_a_pinned_certificate_is_believed_under_any_name(
    ends: Ends, pair: certificates.Pair
) -> None:
    _, client = secured(ends, pair, Trust(pair.certificate), host="gpu.example")
    assert client.peer_certificate is not None


def test_another_certificate_than_the_pinned_one_is_not_believed(
    ends: Ends, pair: certificates.Pair, other_pair: certificates.Pair
) -> None:
    with pytest.raises(NotTrusted) as caught:
        secured(ends, pair, Trust(other_pair.certificate))
    assert caught.value.code == "not_trusted"
    assert "localhost" in caught.value.message


def test_one_that_only_vouches_for_the_server_is_not_the_pinned_one(
    ends: Ends, pair: certificates.Pair, tmp_path: Path
) -> None:
    # a file of several: every one of them is believed, and nothing that they vouch for
    both = tmp_path / "both.pem"
    both.write_bytes(pair.certificate.read_bytes() * 2)
    _, client = secured(ends, pair, Trust(both))
    assert client.peer_certificate is not None


def test_without_a_pin_the_computers_own_trust_decides(ends: Ends, pair: certificates.Pair) -> None:
    with pytest.raises(NotTrusted, match=r"self.signed"):
        secured(ends, pair, Trust())


def test_an_expired_certificate_is_not_believed(ends: Ends, tmp_path: Path) -> None:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old")])
    day = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    old = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(day)
        .not_valid_after(day + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (tmp_path / "c").write_bytes(old.public_bytes(pem))
    (tmp_path / "k").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    pair = certificates.Pair(tmp_path / "c", tmp_path / "k", tmp_path / "t")
    with pytest.raises(NotTrusted, match="expired"):
        secured(ends, pair, Trust(pair.certificate))


def test_a_server_may_ask_for_certificates_of_clients(
    ends: Ends, pair: certificates.Pair, other_pair: certificates.Pair
) -> None:
    trust = Trust(pair.certificate, own=other_pair.own)
    server, client = secured(ends, pair, trust, client_ca=other_pair.certificate)
    client.sendall(b"it is me")
    assert server.recv(PATIENCE_S) == b"it is me"


def test_a_client_without_the_certificate_that_is_asked_for_gets_nowhere(
    ends: Ends, pair: certificates.Pair, other_pair: certificates.Pair
) -> None:
    with pytest.raises(ssl.SSLError):
        secured(ends, pair, Trust(pair.certificate), client_ca=other_pair.certificate)


@pytest.mark.parametrize(
    ("certificate", "key"), [("key", "certificate"), ("certificate", "other"), ("none", "key")]
)
def test_files_that_are_no_pair_are_said_to_be_none(
    pair: certificates.Pair, other_pair: certificates.Pair, certificate: str, key: str
) -> None:
    files = {
        "certificate": pair.certificate,
        "key": pair.key,
        "other": other_pair.key,
        "none": Path("/nowhere"),
    }
    with pytest.raises(InvalidSetting) as caught:
        server_context(OwnCertificate(files[certificate], files[key]))
    assert str(files[certificate]) in str(caught.value)
    assert "runai certificate" in str(caught.value)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(
    pair: certificates.Pair, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(InvalidSetting, match="without a password"):
        server_context(OwnCertificate(pair.certificate, locked))


def test_a_file_of_no_certificates_is_said_to_be_one(
    pair: certificates.Pair, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(InvalidSetting, match=r"empty\.pem holds no certificates"):
        server_context(pair.own, empty)


def test_what_tls_itself_wants_to_answer_is_bounded(ends: Ends, pair: certificates.Pair) -> None:
    server, client = secured(ends, pair, Trust(pair.certificate))
    # as after thousands of wishes to negotiate anew, each answered by an alert: Python's
    # own TLS cannot be made to send them
    server._outgoing.write(bytes(tls.MAX_PENDING_BYTES + 1))
    client.sendall(b"more")
    with pytest.raises(ssl.SSLError, match="asks for more"):
        server.recv(PATIENCE_S)
