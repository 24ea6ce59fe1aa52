"""How a server starts, bounds its connections, and ends."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runai.jobs.service import Service
from runai.testing.scripted import ScriptedEngine
from runai.transports.listener import bind
from runai.transports.socket_server import SocketOptions, SocketServer, StopReason
from tests.transports.clients import LAST, PATIENCE_S, NaiveReader, RawClient, generate
from tests.transports.conftest import Running, Serve

Shortage = Callable[[Running, pytest.MonkeyPatch], None]


def test_a_server_ends_when_its_last_client_has_left(serve: Serve) -> None:
    running = serve(keep_alive=False)
    first, second = running.client(), running.client()
    for client in (first, second):
        client.hello()
    first.close()
    assert second.ask(generate())["type"] == "completed"
    assert running.is_alive
    second.close()
    assert running.reason() is StopReason.CLIENT_LEFT
    with pytest.raises(ConnectionRefusedError):
        running.client()


def test_a_server_that_is_kept_alive_serves_the_next_client(serve: Serve) -> None:
    running = serve(keep_alive=True)
    for _ in range(3):
        with running.client() as client:
            assert client.ask(generate())["type"] == "completed"


def test_a_server_ends_when_nobody_comes(serve: Serve) -> None:
    running = serve(keep_alive=False, first_client_timeout_s=0.05)
    assert running.reason() is StopReason.NOBODY_CAME


def test_a_client_that_came_in_time_is_served_past_that_time(serve: Serve) -> None:
    running = serve(keep_alive=False, first_client_timeout_s=0.3)
    with running.client() as client:
        client.hello()
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.receive()
        client.sock.settimeout(PATIENCE_S)
        assert client.ask(generate())["type"] == "completed"
    assert running.reason() is StopReason.CLIENT_LEFT


def test_an_observer_neither_keeps_a_server_nor_ends_it(serve: Serve) -> None:
    running = serve(keep_alive=False)
    with running.client() as client, running.client() as watching:
        client.hello()
        watching.hello(observer=True)
        with running.client() as another:
            another.hello(observer=True)
        assert client.ask(generate())["type"] == "completed"
        client.close()
        assert watching.receive() is None
        watching.close()
        assert running.reason() is StopReason.CLIENT_LEFT


def test_an_observer_is_nobody_who_came(serve: Serve) -> None:
    running = serve(keep_alive=False, first_client_timeout_s=0.2)
    with running.client() as watching:
        watching.hello(observer=True)
        assert watching.receive() is None
    assert running.reason() is StopReason.NOBODY_CAME


def test_a_server_that_sleeps_when_idle_outlives_its_last_client_for_a_while(
    serve: Serve,
) -> None:
    running = serve(keep_alive=False, idle_exit_s=0.3)
    for _ in range(2):
        with running.client() as client:
            assert client.ask(generate())["type"] == "completed"
    assert running.reason() is StopReason.IDLE


def connect_when_free(running: Running) -> RawClient:
    """Tries again while there is no seat, as clients do."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        client = running.client()
        first = client.receive()
        if first is not None and "versions" in first:
            return client
        client.close()
    raise AssertionError("no seat came free")


def test_one_client_too_many_is_told_so_and_the_others_are_served(serve: Serve) -> None:
    running = serve(max_connections=2)
    with running.client() as first, running.client() as second:
        for client in (first, second):
            client.hello()
        with running.client() as third:
            third.send(generate())
            refused = third.receive()
            assert refused is not None
            assert refused["error"]["code"] == "too_many_connections"
            assert third.receive() is None
        assert first.ask(generate())["type"] == "completed"
        second.close()
        with connect_when_free(running) as fourth:
            assert fourth.ask(generate())["type"] == "completed"


def test_a_naive_reader_is_told_that_there_is_no_seat(serve: Serve) -> None:
    running = serve(max_connections=1)
    with running.client() as first:
        first.hello()
        with running.client() as second:
            refused = NaiveReader(second.sock).read_message()
            assert refused["error"]["code"] == "too_many_connections"


def test_more_newcomers_than_can_be_refused_are_closed_at_once(serve: Serve) -> None:
    running = serve(max_connections=1)
    with running.client() as first:
        first.hello()
        with running.client() as refused, running.client() as closed:
            refused.receive_type("failed")
            assert closed.sock.recv(1) == b""
        assert first.ask(generate())["type"] == "completed"


def test_one_peer_cannot_keep_those_out_who_come_back(serve: Serve) -> None:
    running = serve(max_connections=8, max_connections_per_peer=1)
    with running.client() as first:
        first.hello()
        with running.client() as refused, running.client() as closed:
            refused.receive_type("failed")  # and is listened to for a while
            assert closed.sock.recv(1) == b""


def no_descriptors(running: Running, within: pytest.MonkeyPatch) -> None:
    """As the system says it, three times; the newcomer waits meanwhile."""
    accept, left = socket.socket.accept, iter(range(3))

    def accept_late(listening: socket.socket) -> object:
        if next(left, None) is not None:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listening)

    within.setattr(socket.socket, "accept", accept_late)
    with running.client() as late:
        late.hello()


def no_threads(running: Running, within: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def start_others(thread: threading.Thread) -> None:
        if thread.name.endswith("-reader"):
            raise RuntimeError("can't start new thread")
        start(thread)

    within.setattr(threading.Thread, "start", start_others)
    refuse_three(running)


def no_seats(running: Running, within: pytest.MonkeyPatch) -> None:
    with running.client() as last:
        last.hello()
        refuse_three(running)


def refuse_three(running: Running) -> None:
    for _ in range(3):
        with running.client() as newcomer:
            assert newcomer.receive_type("failed")["error"]["code"] == "too_many_connections"
            assert newcomer.receive() is None


@pytest.mark.parametrize(
    ("shortage", "why"),
    [
        (no_descriptors, "Too many open files."),
        (no_threads, "The server can start no thread for one more client."),
        (no_seats, "4 clients are connected, which is all there may."),
    ],
)
def test_that_newcomers_cannot_be_taken_is_logged_once_until_one_is_again(
    serve: Serve, caplog: pytest.LogCaptureFixture, shortage: Shortage, why: str
) -> None:
    running = serve(max_connections=4)
    with contextlib.ExitStack() as inside:
        for _ in range(3):
            inside.enter_context(running.client()).hello()
        for times in (1, 2):
            with pytest.MonkeyPatch.context() as within:
                shortage(running, within)
            wait_until_there_are(running, 3)
            with running.client() as taken:
                taken.hello()
            wait_until_there_are(running, 3)
            said = [record.message for record in caplog.records if record.levelname == "WARNING"]
            assert said == [f"Clients cannot be taken, for now: {why}"] * times


def wait_until_there_are(running: Running, clients: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while running.service.status().clients != clients:
        assert time.monotonic() < until


def test_a_server_that_is_told_to_stop_while_it_draws_stops(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    running = serve(engine, write_deadline_s=0.1)
    with running.client() as client:
        client.hello()
        client.send(generate())
        engine.gate.wait_until_reached()
        running.server.stop()
        assert running.reason() is StopReason.STOPPED
        engine.gate.open()
        while client.receive() is not None:
            pass


def test_what_was_drained_is_still_answered_when_the_server_stops(serve: Serve) -> None:
    engine = ScriptedEngine(capacity=1)
    engine.gate.close()
    running = serve(engine)
    with running.client() as client:
        client.hello()
        client.send(generate("drawn"))
        client.receive_type("accepted")
        engine.gate.wait_until_reached()
        client.send(generate("waiting"))
        client.receive_type("accepted")
        drained: list[bool] = []
        drain = threading.Thread(target=lambda: drained.append(running.service.drain(PATIENCE_S)))
        drain.start()
        assert client.receive_type(*LAST) == {"type": "canceled", "id": "waiting"}
        assert client.ask(generate("late"))["error"]["code"] == "server_stopping"
        engine.gate.open()
        drain.join(PATIENCE_S)
        assert drained == [False]
        running.server.stop()
        assert client.receive_type(*LAST)["id"] == "drawn"
        assert client.receive() is None
        client.close()
        assert running.reason() is StopReason.STOPPED


def test_a_client_that_does_not_read_its_last_answers_cannot_hold_the_server(serve: Serve) -> None:
    engine = ScriptedEngine(draw=lambda *_: bytes(20_000_000))
    engine.gate.close()
    running = serve(engine, write_deadline_s=0.1)
    with running.client() as client:
        client.hello()
        client.send(generate())
        engine.gate.wait_until_reached()
        engine.gate.open()
        assert running.service.drain(PATIENCE_S)
        running.server.stop()
        assert running.reason() is StopReason.STOPPED


def test_stop_before_run_and_after_it_is_heard_or_harmless() -> None:
    service = Service(ScriptedEngine)
    server = SocketServer(bind("127.0.0.1", 0), service, SocketOptions())
    server.stop()
    assert server.run() is StopReason.STOPPED
    server.stop()


def wake_ups() -> dict[str, int]:
    """How often each thread of this process has gone to sleep of its own will."""
    tasks = {}
    for task in Path("/proc/self/task").iterdir():
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        tasks[task.name] = int(status["voluntary_ctxt_switches"])
    return tasks


def test_an_idle_server_with_clients_never_wakes_up(serve: Serve) -> None:
    running = serve()
    with running.client() as client, running.client() as plugin:
        assert client.ask(generate())["type"] == "completed"
        assert "versions" in NaiveReader(plugin.sock).read_message()
        # threads may still be on their way to where they wait
        assert select.select([client.sock], [], [], 0.1)[0] == []
        own = str(threading.get_native_id())
        before = wake_ups()
        assert select.select([client.sock], [], [], 0.5)[0] == []
        after = wake_ups()
        assert len(after) >= 6  # this one, the worker, the server's, and two a client, and more
        assert {task: after[task] - before[task] for task in after if task != own} == {
            task: 0 for task in after if task != own
        }


def test_connections_bytes_and_what_is_refused_are_counted(serve: Serve) -> None:
    running = serve(max_connections=1, max_message_bytes=2000)
    with running.client() as client:
        client.hello()
        assert client.ask({"type": "nothing"})["type"] == "failed"
        client.send_body(b"y" * 5000)
        client.receive_type("failed")
        with running.client() as another:
            assert another.receive() is not None
        client.send({"type": "status"})
        counters = client.receive_type("status")["counters"]
    assert (counters["connections"], counters["connections_refused"]) == (1, 1)
    assert counters["refused"] == {"unknown_action": 1, "message_too_large": 1}
    assert counters["received_bytes"] == (2 + 2 + 6 + 2) * 1024
    assert counters["sent_bytes"] % 1024 == 0 and counters["sent_bytes"] >= 4 * 2048
