"""Two computers with a cable between them: network namespaces, made and removed by a test.

The test itself is where the server is, so that it reaches that over the loopback whatever
becomes of the cable; within `at_client` what it makes, sockets and threads, is at the other end.
Needs root, `ip` and `iptables`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

SERVER, CLIENT = "10.203.0.1", "10.203.0.2"
CLONE_NEWNET = 0x40000000
NEEDED = ("ip", "iptables")
NAMED = Path("/run/netns")


def need() -> None:
    """Skip, and say why, where there can be no namespaces."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces")
    for program in NEEDED:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


def _enter(namespace: Path) -> None:
    """This thread, and those that it starts from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with namespace.open("rb") as opened:
        if libc.setns(opened.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"{namespace} cannot be entered")


class Network:
    """See the module. To be made with an `ExitStack` that takes it down again."""

    def __init__(self, stack: ExitStack) -> None:
        self._server, self._client = (f"runai-{os.getpid()}-{end}" for end in "sc")
        own = Path("/proc/thread-self/ns/net")
        home = stack.enter_context(own.open("rb"))
        for name in (self._server, self._client):
            _run("ip", "netns", "add", name)
            stack.callback(_run, "ip", "netns", "del", name)
        stack.callback(_enter, Path("/proc/self/fd", str(home.fileno())))
        self._connect()
        _enter(NAMED / self._server)

    def _connect(self) -> None:
        _run(
            *("ip", "-n", self._server, "link", "add", "cable", "type", "veth"),
            *("peer", "name", "cable", "netns", self._client),
        )
        for name, address in ((self._server, SERVER), (self._client, CLIENT)):
            _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _run("ip", "-n", name, "link", "set", device, "up")

    @contextmanager
    def at_client(self) -> Iterator[None]:
        _enter(NAMED / self._client)
        try:
            yield
        finally:
            _enter(NAMED / self._server)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Within, nothing comes through, and nobody is told."""
        with self._rules("-j", "DROP"):
            yield

    @contextmanager
    def resetting(self) -> Iterator[None]:
        """Within, a box on the way answers everything with a reset."""
        with self._rules("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"):
            yield

    @contextmanager
    def unplugged(self) -> Iterator[None]:
        """Within, the client's computer has no cable, and knows it."""
        _run("ip", "-n", self._client, "link", "set", "cable", "down")
        try:
            yield
        finally:
            _run("ip", "-n", self._client, "link", "set", "cable", "up")

    @contextmanager
    def _rules(self, *rule: str) -> Iterator[None]:
        iptables = ("ip", "netns", "exec", self._server, "iptables", "-w")
        ends = (("INPUT", "-s", CLIENT), ("OUTPUT", "-d", CLIENT))
        for chain, *match in ends:
            _run(*iptables, "-A", chain, *match, *rule)
        try:
            yield
        finally:
            for chain, *match in ends:
                _run(*iptables, "-D", chain, *match, *rule)
