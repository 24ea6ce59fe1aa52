"""Which certificates are shown and believed: TLS contexts for servers and clients.

A server shows its certificate and may ask for clients'. A client believes either exactly the
certificates in a file (*pinning*: whoever holds that key is the server, whatever it is called
and wherever it is), or those that the computer trusts for the name it asks for.
TLS 1.2 or later, no renegotiation, no compression. Raises InvalidSetting for files.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from runai.errors import InvalidSetting, NotTrusted
from runai.streams.plain import PlainStream
from runai.streams.tls import TlsStream

PEM_END = "-----END CERTIFICATE-----"


@dataclass(frozen=True)
class OwnCertificate:
    """What one side shows: a PEM file of certificates, its own first, and one of its key."""

    certificate: Path
    key: Path

    def load_into(self, context: ssl.SSLContext) -> None:
        for file in (self.certificate, self.key):
            _check_file(file, "tls_cert")
        try:
            # without a password function OpenSSL would ask on the terminal
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise InvalidSetting(
                f"{self.certificate} and {self.key} are not a certificate and its key: "
                f"{_reason(error)}.",
                hint="Give two PEM files that belong together, the key without a password; "
                "`runai certificate` makes such a pair.",
                field="tls_cert",
            ) from None


@dataclass(frozen=True)
class Trust:
    """What a client believes. `pinned`: a PEM file; None: what this computer trusts.

    `own`: what to show to a server that asks for a certificate.
    """

    pinned: Path | None = None
    own: OwnCertificate | None = None


def server_context(own: OwnCertificate, client_ca: Path | None = None) -> ssl.SSLContext:
    """For a server. `client_ca`: only clients whose certificates these vouch for may come in."""
    context = _hardened(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # nobody resumes: a session lasts as long as its connection
    own.load_into(context)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _believe(context, client_ca, "tls_client_ca")
    return context


def secure_client(plain: PlainStream, trust: Trust, host: str, timeout_s: float) -> TlsStream:
    """A client's stream after the handshake with `host`.

    Raises NotTrusted if the server is not who it should be, ssl.SSLError, OSError.
    """
    stream = TlsStream(plain, _client_context(trust), server_name=host)
    try:
        stream.handshake(timeout_s)
    except ssl.SSLCertVerificationError as error:
        raise NotTrusted(
            f"The certificate of {host} is not trusted: {error.verify_message}."
        ) from None
    if trust.pinned is not None and stream.peer_certificate not in _certificates(trust.pinned):
        raise NotTrusted(f"{host} shows another certificate than the one in {trust.pinned}.")
    return stream


def _client_context(trust: Trust) -> ssl.SSLContext:
    context = _hardened(ssl.PROTOCOL_TLS_CLIENT)
    if trust.pinned is None:
        context.load_default_certs()
    else:
        context.check_hostname = False  # the certificate itself is compared
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        _believe(context, trust.pinned, "tls_cert")
    if trust.own is not None:
        trust.own.load_into(context)
    return context


def _hardened(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context


def _check_file(file: Path, field: str) -> None:
    """Raises InvalidSetting for what is no file: OpenSSL would wait for a pipe's other end."""
    if not file.is_file():
        raise InvalidSetting(
            f"{file} is not a file.",
            hint="Give a PEM file that is there; `runai certificate` makes what a server needs.",
            field=field,
        )


def _believe(context: ssl.SSLContext, file: Path, field: str) -> None:
    _check_file(file, field)
    try:
        context.load_verify_locations(cafile=file)
    except (OSError, ValueError) as error:
        raise InvalidSetting(
            f"{file} holds no certificates: {_reason(error)}.",
            hint="Give a PEM file of certificates.",
            field=field,
        ) from None


def _certificates(file: Path) -> set[bytes]:
    """Those in a PEM file, as DER."""
    texts = file.read_text("ascii", "ignore").split(PEM_END)[:-1]
    begun = (text[text.index("-----BEGIN CERTIFICATE-----") :] for text in texts)
    return {ssl.PEM_cert_to_DER_cert(text + PEM_END) for text in begun}


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
