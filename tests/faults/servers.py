"""Servers to break: one on threads of this process, one that is a child. Both look alike.

`Here` is for faults that are put into an engine or into what it calls, `Apart` for those of a
whole process. What a server holds is read from /proc, so it is the same for both.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import children

from runai.jobs.engine import Engine
from runai.jobs.service import Service
from runai.transports.gate import Gate
from runai.transports.listener import bind
from runai.transports.socket_server import SocketOptions, SocketServer

if TYPE_CHECKING:
    from runai.engine.engine import TorchEngine

# with words, for the tokenizers start their threads at the first ones
SMALL = {"prompt": "a b c", "width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}


class Held(NamedTuple):
    """What a process holds. `threads`: the kernel's numbers; `descriptors`: what each one is."""

    threads: frozenset[str]
    descriptors: frozenset[str]
    resident_bytes: int

    @classmethod
    def of(cls, pid: int) -> Held:
        process = Path("/proc", str(pid))
        resident_pages = int((process / "statm").read_text().split()[1])
        return cls(
            frozenset(os.listdir(process / "task")),  # noqa: PTH208 (names are wanted)
            frozenset(_descriptors(process / "fd")),
            resident_pages * os.sysconf("SC_PAGE_SIZE"),
        )


def _descriptors(folder: Path) -> Iterator[str]:
    """Their numbers, and what the kernel calls them: a socket has a name that no other has."""
    for number in os.listdir(folder):  # noqa: PTH208 (names are wanted)
        with suppress(FileNotFoundError):  # closed meanwhile
            yield f"{number} {(folder / number).readlink()}"


class Server(Protocol):
    """A server that listens. `good`: the fields of a request that it can draw."""

    port: int
    pid: int
    good: Mapping[str, Any]

    def end(self) -> None:
        """Stop it, if it still runs, and let go of all that belongs to it."""
        ...


class Here:
    """The real service and socket server over an engine, on threads of this process."""

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        *,
        options: SocketOptions | None = None,
        host: str = "127.0.0.1",
        resume_s: float = 30.0,
        gate: Gate | None = None,
        **good: Any,
    ) -> None:
        self.fatal: list[Exception] = []
        self.service = Service(make_engine, on_fatal=self._die, resume_s=resume_s)
        options = options or SocketOptions(keep_alive=True)
        self.server = SocketServer(bind(host, 0), self.service, options, gate)
        self.port, self.pid, self.good = self.server.port, os.getpid(), {**SMALL, **good}
        self._thread = threading.Thread(target=self.server.run, name="here")
        self.service.start()
        self._thread.start()

    def _die(self, error: Exception) -> None:
        """As `runai serve` does."""
        self.fatal.append(error)
        self.server.stop()

    def end(self) -> None:
        self.server.stop()
        self.service.stop()
        self._thread.join(children.PATIENCE_S)
        assert not self._thread.is_alive(), "the server has not ended"


class Drawing(Here):
    """A server of this process that draws with torch, and its engine for a look inside."""

    engine: TorchEngine

    def __init__(self, base: Path, **options: Any) -> None:
        from runai.engine.engine import TorchEngine

        def make() -> TorchEngine:
            self.engine = TorchEngine(base, device="cpu", dtype="fp32", **options)
            return self.engine

        super().__init__(make, model="v1/plain")


def free_port() -> int:
    """One that nobody has, and that hardly anybody will take soon."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _wait_until_it_listens(process: subprocess.Popen[str], port: int) -> None:
    while process.poll() is None:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise AssertionError(f"it has ended with {process.returncode}")


class Apart:
    """A server that is a child process. `port`: None: it says on stderr which one it has."""

    def __init__(self, child: children.Child, port: int | None = None, **good: Any) -> None:
        self.child = child
        if port is None:
            port = int(child.wait_for(r"port (\d+)")[1])
        else:
            _wait_until_it_listens(child.process, port)
        self.port = port
        self.pid, self.good = child.process.pid, {**SMALL, **good}

    def end(self) -> None:
        self.child.close()
