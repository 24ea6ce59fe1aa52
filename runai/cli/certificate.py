"""`runai certificate`: a key, a certificate signed with it, and a token, to share a server.

Whoever has a copy of the certificate knows the server by it (see `streams.contexts`): no
authority is needed, and no name has to be right. What it makes are files, so this is a command
of its own and nothing that the server does by itself. Nothing is overwritten without --force.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from runai.cli.exit_codes import ExitCode
from runai.cli.parser import Parser
from runai.errors import InvalidSetting
from runai.jobs.engine import Engine

CERTIFICATE, KEY, TOKEN = "certificate.pem", "key.pem", "token"
MODES = {CERTIFICATE: 0o644, KEY: 0o600, TOKEN: 0o600}
DAYS, MOST_DAYS = 3650, 36500
LOCAL = ("localhost", "127.0.0.1", "::1")
NEXT = """
On the server:
    runai --host 0.0.0.0 --keep-alive --tls-cert {certificate} --tls-key {key} --token-file {token}
On the other computers, with copies of {certificate} and {token}:
    runai status --host {name} --tls-cert {certificate} --token-file {token}
The key never leaves the server. SHA-256 of the certificate: {fingerprint}"""


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    arguments, _ = command_line().read(words)
    names = list(dict.fromkeys([*arguments.name, socket.gethostname(), *LOCAL]))
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = self_signed(key, names, arguments.days)
    content = {
        CERTIFICATE: certificate.public_bytes(serialization.Encoding.PEM),
        KEY: key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        TOKEN: f"{secrets.token_urlsafe(32)}\n".encode(),
    }
    paths = _write(arguments.into, content, overwrite=arguments.force)
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex(":")
    print(*paths.values(), sep="\n")
    print(NEXT.format(name=names[0], fingerprint=fingerprint, **paths))
    return ExitCode.OK


def command_line() -> Parser:
    parser = Parser(
        "certificate", "Make a key, a certificate and a token, to share a server with others."
    )
    parser.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="where to (.)")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        help="a name or address of the server besides its own; again for more",
    )
    parser.add_argument(
        "--days", type=int, default=DAYS, metavar="N", help=f"how long it is valid ({DAYS})"
    )
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    parser.add_settings(())
    return parser


def self_signed(
    key: ec.EllipticCurvePrivateKey, names: Sequence[str], days: int
) -> x509.Certificate:
    """A certificate of this key for these names and addresses. Raises InvalidSetting."""
    if not 1 <= days <= MOST_DAYS:
        raise InvalidSetting(f"--days: {days} is not from 1 to {MOST_DAYS}.", hint="Correct it.")
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "RunAI")])
    return (
        x509.CertificateBuilder(subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        # clocks of other computers may be behind
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(list(map(_name, names))), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError:
        raise InvalidSetting(
            f"--name: {text!r} is no name or address.", hint="Write names in ASCII letters."
        ) from None


def _write(folder: Path, content: Mapping[str, bytes], *, overwrite: bool) -> dict[str, Path]:
    """The files by what they are. Private ones are so from their first moment on."""
    paths = {name: folder / name for name in content}
    there = [str(path) for path in paths.values() if path.exists()]
    if there and not overwrite:
        raise InvalidSetting(
            f"{', '.join(there)}: there already.", hint="Give --force, or another folder: --into."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            path.unlink(missing_ok=True)  # a new file has the mode that it is made with
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODES[name])
            with os.fdopen(made, "wb") as file:
                file.write(content[name])
    except OSError as error:
        raise InvalidSetting(
            f"{error.filename or folder} cannot be written: {error.strerror}.",
            hint="Name another folder: --into.",
        ) from None
    return {path.stem: path for path in paths.values()}
