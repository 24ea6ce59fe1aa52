"""Listening sockets, and what is said when there can be none."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from runai.errors import AddressInUse, InvalidSetting
from runai.transports import listener as listener_module
from runai.transports import naive
from runai.transports.listener import address_of, bind, bind_unix, inherited


@contextmanager
def bound(host: str, port: int = 0, **options: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(sock) for sock in bind(host, port, **options)]


def test_localhost_is_both_loopbacks_on_one_port() -> None:
    with bound("localhost") as listeners:
        names = [listener.getsockname()[:2] for listener in listeners]
        assert [host for host, _ in names] == ["127.0.0.1", "::1"]
        assert len({port for _, port in names}) == 1
        for name in names:
            socket.create_connection(name).close()


def test_an_address_is_that_address_alone() -> None:
    with bound("127.0.0.1") as listeners:
        (listener,) = listeners
        port = listener.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_busy_port_is_said_to_be(host: str) -> None:
    with bound("localhost") as listeners:
        port = listeners[0].getsockname()[1]
        with pytest.raises(AddressInUse, match=str(port)):
            bind(host, port)


def test_a_port_that_is_busy_on_one_loopback_leaves_no_listener_on_the_other() -> None:
    with bound("::1") as listeners:
        port = listeners[0].getsockname()[1]
        with pytest.raises(AddressInUse):
            bind("localhost", port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a" * 70 + ".invalid"])
def test_a_host_that_is_not_ours_is_said_to_be(host: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        bind(host, 0)
    assert caught.value.field == "host"


@pytest.mark.parametrize(("host", "whole"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_only_where_clients_may_be_unseen_are_segments_limited(host: str, whole: bool) -> None:
    with (
        bound(host, packet_size=1000) as (listener,),
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])),
    ):
        served, _ = listener.accept()
        with served:
            assert naive.has_whole_packets(served, 1000) is whole


def test_listening_needs_nothing_heavy() -> None:
    code = "import sys, runai.transports.listener; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pydantic", "torch", "PIL", "numpy"} & set(done.stdout.split())


def test_a_unix_socket_is_for_its_user_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (listening,) = bind_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert address_of(listening) == (str(path), 0)
    listening.close()
    assert not path.exists()


def test_a_socket_that_a_killed_server_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    os.close(bind_unix(path)[0].detach())
    assert path.exists()
    with bind_unix(path)[0], socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_somebody_else_has_put_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (first,) = bind_unix(path)
    path.unlink()
    with bind_unix(path)[0]:
        first.close()
        assert path.exists()


def test_a_socket_that_somebody_listens_on_is_left_to_them(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bind_unix(path)[0] as listening:
        with pytest.raises(AddressInUse, match="listens on"):
            bind_unix(path)
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):  # looking was no visit
            listening.accept()


def test_a_file_is_never_taken_for_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("precious")
    with pytest.raises(InvalidSetting, match="there is a file of that name"):
        bind_unix(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("path", ["/nowhere/s", "/tmp/" + "x" * 120])
def test_a_path_where_no_socket_can_be_is_said_to_be_one(path: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        bind_unix(Path(path))
    assert caught.value.field == "listen"
    assert path in caught.value.message


def test_only_what_was_handed_to_this_very_process_is_taken() -> None:
    assert inherited({}) == []
    assert inherited({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []


def test_what_a_supervisor_handed_over_is_served_and_stays_its_own(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bind_unix(path)[0] as supervisors, bound("127.0.0.1") as (tcp,):
        with handed(supervisors, tcp) as environ:
            taken = inherited(environ)
        assert [address_of(one) for one in taken] == [address_of(supervisors), address_of(tcp)]
        for one in taken:
            assert not one.get_inheritable()
            one.close()
        assert path.exists()


def test_what_is_no_listening_socket_is_refused() -> None:
    with (
        socket.socket() as plain,
        handed(plain) as environ,
        pytest.raises(InvalidSetting, match="no listening socket"),
    ):
        inherited(environ)


@contextmanager
def handed(*sockets: socket.socket) -> Iterator[dict[str, str]]:
    """The environment of a process that was handed these, from the place where they are now."""
    copies = [os.dup(sock.fileno()) for sock in sockets]
    first = min(copies)
    assert copies == [*range(first, first + len(copies))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listener_module, "FIRST_INHERITED", first)
        yield {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(copies))}
