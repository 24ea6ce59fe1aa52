"""What counts as one peer."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from runai.errors import Unauthorized
from runai.transports import origin
from runai.transports.listener import bind_unix


class From:
    """A socket whose peer is somewhere else, which a test cannot be."""

    family = socket.AF_INET

    def __init__(self, address: str) -> None:
        self._address = address

    def getpeername(self) -> tuple[Any, ...]:
        return (self._address, 4711)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("127.0.0.1", "this computer"),
        ("127.3.2.1", "this computer"),
        ("::1", "this computer"),
        ("::ffff:127.0.0.1", "this computer"),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_address_is_a_peer_and_in_ipv6_a_network_is(address: str, name: str) -> None:
    found = origin.origin_of(From(address))  # type: ignore[arg-type]
    assert found == origin.Origin(name)
    assert not found.vouched


AS_NOBODY = """
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    client.recv(1)
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for the peer's user")


@linux
def test_over_a_unix_socket_the_kernel_says_who_it_is(tmp_path: Path) -> None:
    (listener,) = bind_unix(tmp_path / "s")
    with listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        served, _ = listener.accept()
        with served:
            found = origin.origin_of(served)
    assert found == origin.Origin(f"user {os.geteuid()}", vouched=True)


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_not_let_in_even_if_the_sockets_mode_would(tmp_path: Path) -> None:
    folder = tempfile.mkdtemp()  # pytest's own are closed to others
    path = Path(folder, "s")
    Path(folder).chmod(0o755)
    (listener,) = bind_unix(path)
    path.chmod(0o777)
    with listener:
        with subprocess.Popen([sys.executable, "-c", AS_NOBODY, str(path)]) as other:
            served, _ = listener.accept()
            with served, pytest.raises(Unauthorized, match="not for 65534"):
                origin.origin_of(served)
        assert other.returncode == 0
    shutil.rmtree(folder)
