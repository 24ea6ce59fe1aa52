"""What holds after a fault, whatever it was, and the table of all faults.

A fault happens within `survived`, `ended` or `restarted`, which give a `Watch`: the test asks
through its clients, and they keep account of what they are told. Afterwards it is checked that

- every request that was accepted got exactly one last answer;
- the next request, of a new client, is completed;
- the same threads live as before, nothing is open that was not, and memory did not grow by more
  than `MAX_GROWTH_BYTES` (in this process the tests' own is counted too);

or, of a server that is to end, that it did so with the exit code that it should have, and is
started again where somebody sees to that. Each fault is a row of the table, also when the check
fails; RUNAI_FAULT_TABLE=FILE writes it as markdown.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from runai.client import Client
from runai.schema.codec import parse_task
from runai.schema.events import Completed
from tests.faults.servers import Apart, Held, Server
from tests.transports.clients import LAST, Json, RawClient, generate

MAX_GROWTH_BYTES = 48 * 2**20
SETTLED_WITHIN_S = 10.0
HEADING = ("fault", "survived", "what clients saw", "seconds to the next good answer")


class Row(NamedTuple):
    fault: str
    survived: str
    seen: str
    seconds: str


class Witness(RawClient):
    """A client that keeps account of its requests. It is connected and greeted."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.accepted: Counter[str] = Counter()
        self.last: dict[str, list[Json]] = {}
        self.closed = False
        self.hello()

    def request(self, request_id: str, **fields: object) -> None:
        """Send one that is small, unless told otherwise."""
        self.send(generate(request_id, **fields))

    def receive(self) -> Json | None:
        """As `RawClient` does, and into the books; None also for a connection that was reset."""
        try:
            message = super().receive()
        except ConnectionResetError:
            message = None
        if message is None:
            self.closed = True
            return None
        request_id = str(message.get("id"))
        if message.get("type") == "accepted":
            self.accepted[request_id] += 1
        if message.get("type") in LAST:
            self.last.setdefault(request_id, []).append(message)
        return message

    def end_of(self, request_id: str) -> Json:
        """The last answer to a request."""
        while request_id not in self.last:
            assert self.receive() is not None, f"closed before {request_id} was answered"
        return self.last[request_id][0]

    def settle(self) -> None:
        """Read until all that was accepted is answered, and what comes after it; and leave."""
        while not self.closed and self.accepted.keys() - self.last.keys():
            self.receive()
        if not self.closed:
            self._ask_something()
        self.close()

    def _ask_something(self) -> None:
        """Its answer comes after all others'."""
        with suppress(ConnectionError):
            self.send({"type": "status"})
        while (message := self.receive()) is not None and message.get("type") != "status":
            pass

    def close(self) -> None:
        self.closed = True
        super().close()

    def read_to_the_end(self) -> None:
        """Until the server has closed; and leave, for it waits for that."""
        while not self.closed:
            self.receive()
        self.close()

    def unsettled(self) -> dict[str, int]:
        """The requests that were accepted and did not get one last answer; how many they got."""
        counts = {request_id: len(self.last.get(request_id, [])) for request_id in self.accepted}
        return {request_id: count for request_id, count in counts.items() if count != 1}


class Watch:
    """The clients of one fault, and what they saw."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.clients: list[Witness] = []
        self._told: list[str] = []

    def client(self) -> Witness:
        self.clients.append(Witness(self.server.port))
        return self.clients[-1]

    def ask(self, request_id: str = "faulty", **fields: object) -> Json:
        """The last answer to one request of a client of its own; small unless told otherwise."""
        client = self.client()
        client.request(request_id, **{**self.server.good, **fields})
        end = client.end_of(request_id)
        client.settle()
        return end

    def saw(self, what: str) -> None:
        """What a client saw that is none of `client`'s."""
        self._told.append(what)

    @property
    def seen(self) -> str:
        """The kinds of last answers, the first first, each once."""
        ends = [
            message for client in self.clients for ends in client.last.values() for message in ends
        ]
        return ", ".join(dict.fromkeys([*self._told, *map(_called, ends)])) or "nothing"

    def check_answers(self) -> None:
        """Every request that was accepted has exactly one last answer."""
        lost = [unsettled for client in self.clients if (unsettled := client.unsettled())]
        assert lost == [], f"last answers by request: {lost}"

    def close(self) -> None:
        for client in self.clients:
            client.close()


def _called(message: Json) -> str:
    return message["error"]["code"] if message["type"] == "failed" else str(message["type"])


class Table:
    """The rows of a session."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    @contextmanager
    def survived(self, fault: str, server: Server) -> Iterator[Watch]:
        """Within, the fault happens. Afterwards the server serves as before."""
        watch = Watch(server)
        with self._row(fault, watch) as result, _looking_on(server) as observer:
            before = _held_before(server, observer)
            yield watch
            began = time.monotonic()
            _draw(server)
            result["seconds"] = f"{time.monotonic() - began:.2f}"
            for client in watch.clients:
                client.settle()
            watch.check_answers()
            _check_held(server, before, observer)

    @contextmanager
    def ended(self, fault: str, server: Apart, code: int) -> Iterator[Watch]:
        """Within, the fault happens. Afterwards the server has ended with this exit code."""
        watch = Watch(server)
        with self._row(fault, watch) as result:
            yield watch
            began = time.monotonic()
            for client in watch.clients:
                client.read_to_the_end()
            assert server.child.end() == code, server.child.seen
            result["survived"] = f"ended, exit code {code}"
            result["seconds"] = f"ended after {time.monotonic() - began:.2f}"
            watch.check_answers()

    @contextmanager
    def restarted(self, fault: str, server: Apart, code: int) -> Iterator[Watch]:
        """Within, the fault happens. Afterwards the server has ended with this exit code, and
        whoever watches over it has started it again.
        """
        watch = Watch(server)
        with self._row(fault, watch) as result:
            _draw(server)
            yield watch
            began = time.monotonic()
            for client in watch.clients:
                client.read_to_the_end()
            server.child.wait_for(f"ended with {code}$")
            server.child.wait_for(f"port {server.port}")
            _draw(server)
            result["survived"] = f"restarted after exit code {code}"
            result["seconds"] = f"{time.monotonic() - began:.2f}"
            watch.check_answers()

    @contextmanager
    def _row(self, fault: str, watch: Watch) -> Iterator[dict[str, str]]:
        result = {"survived": "yes", "seconds": "-"}
        try:
            yield result
        except BaseException as error:
            result["survived"] = f"NO: {type(error).__name__}"
            raise
        finally:
            watch.close()
            self.rows.append(Row(fault, result["survived"], watch.seen, result["seconds"]))

    def write(self, path: Path) -> None:
        rule = ["-" * len(name) for name in HEADING]
        lines = (" | ".join(row) for row in (HEADING, rule, *self.rows))
        path.write_text("".join(f"| {line} |\n" for line in lines), encoding="utf-8")


def _draw(server: Server) -> None:
    """A good request, through the client library."""
    with Client("127.0.0.1", server.port) as client:
        fields = {"task": "txt2img", "id": "good", **server.good}
        *_, last = client.generate(parse_task(fields))
    assert isinstance(last, Completed), last


@contextmanager
def _looking_on(server: Server) -> Iterator[Client]:
    with Client("127.0.0.1", server.port, observer=True) as observer:
        observer.connect()
        yield observer


def _named(server: Server, threads: Iterable[str]) -> list[str]:
    """What is known of threads: the name that the kernel has, and Python's of one of its own."""
    ours = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    task = Path("/proc", str(server.pid), "task")
    return [f"{(task / tid / 'comm').read_text().strip()} {ours.get(tid, '')}" for tid in threads]


def _until(true: Callable[[], bool]) -> None:
    """Until it is so, or has not been for long; what is asked must take its time."""
    end = time.monotonic() + SETTLED_WITHIN_S
    while not true() and time.monotonic() < end:
        pass


class Before(NamedTuple):
    """`lasting`: threads that are there whoever is connected."""

    lasting: frozenset[str]
    held: Held


def _held_before(server: Server, observer: Client) -> Before:
    """A picture is drawn first, so that all is there that comes with the first one."""
    threads = Held.of(server.pid).threads
    _draw(server)
    _until(lambda: observer.status().clients == 1)
    held = Held.of(server.pid)
    return Before(threads & held.threads, held)


def _check_held(server: Server, before: Before, observer: Client) -> None:
    """What belonged to clients that have left goes soon after they have."""

    def is_back() -> bool:
        observer.status()  # waiting is asking
        now = Held.of(server.pid)
        return now.threads <= most.threads and now.descriptors <= most.descriptors

    most = before.held
    gc.collect()  # of a server of this process: tests make cycles
    _until(is_back)
    now = Held.of(server.pid)
    left = [*_named(server, now.threads - most.threads), *(now.descriptors - most.descriptors)]
    grown = now.resident_bytes - most.resident_bytes
    if grown > MAX_GROWTH_BYTES:
        left.append(f"{grown / 2**20:.0f} MiB")
    assert not left, f"left behind: {left}"
    assert before.lasting <= now.threads, "a thread is gone"
