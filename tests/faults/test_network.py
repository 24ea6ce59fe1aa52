"""The network breaks between a client and the server, and comes back, or does not.

In tests a silent peer is given up after `SOON.gives_up_s`, 3 s; in real life the client library
does so after 25 s and the server after 120 s (see "When a connection breaks" in architecture.md).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest

from runai.client import Answers, Client
from runai.errors import ConnectionLost
from runai.schema.codec import parse_task
from runai.schema.events import JobEvent
from runai.streams.keepalive import Keepalive
from runai.testing.scripted import ScriptedEngine
from runai.transports.socket_server import SocketOptions
from tests.faults import network
from tests.faults.network import Network
from tests.faults.servers import SMALL, Here
from tests.faults.watching import Table, Watch, _until
from tests.transports.clients import RawClient, generate

SOON = Keepalive(idle_s=1, interval_s=1, probes=2)
STEPS = 6
Cut = Callable[[Network], AbstractContextManager[None]]


@pytest.fixture
def net() -> Iterator[Network]:
    network.need()
    with ExitStack() as stack:
        yield Network(stack)


class Cable:
    """A server at one end, over an engine that waits to be let pass, and a client at the other."""

    def __init__(self, net: Network, scripted: Callable[..., Here], **options: object) -> None:
        self.net = net
        self.engine = ScriptedEngine()
        keepalive = options.pop("keepalive", SOON)
        chosen = SocketOptions(keep_alive=True, keepalive=keepalive)  # type: ignore[arg-type]
        self.server = scripted(self.engine, host="0.0.0.0", options=chosen, **options)

    def client(self, **options: object) -> Client:
        with self.net.at_client():
            client = Client(
                network.SERVER,
                self.server.port,
                **{"keepalive": SOON, **options},  # type: ignore[arg-type]
            )
            client.connect()
        return client

    def begin(self, client: Client) -> Answers:
        """A request that stands after its first step of `STEPS`; `accepted` has come."""
        self.engine.gate.close()
        fields = {**SMALL, "num_inference_steps": STEPS}
        answers = client.generate(parse_task({"task": "txt2img", "id": "far", **fields}))
        assert next(answers).type == "accepted"
        self.engine.gate.let_pass()
        self.engine.gate.wait_until_reached()
        return answers

    @property
    def is_drawn(self) -> bool:
        status = self.server.service.status()
        return status.running == status.queued == 0


def is_coming_back() -> bool:
    return any(thread.name == "runai-client-returning" for thread in threading.enumerate())


def check_exactly_once(watch: Watch, events: list[JobEvent]) -> None:
    kinds = [event.type for event in events]
    assert kinds.count("accepted") == 0, "it had come before"
    assert [kind for kind in kinds if kind in ("completed", "failed", "canceled")] == ["completed"]
    watch.saw(f"{kinds[-1]}, once")


@pytest.mark.parametrize(
    ("fault", "cut"),
    [
        ("the network is cut for some seconds, and back", Network.cut),
        ("a box on the way resets the connection", Network.resetting),
        ("the client's cable is pulled out, and back", Network.unplugged),
    ],
)
def test_what_is_drawn_while_the_network_is_away_comes_once_when_it_is_back(
    net: Network, scripted: Callable[..., Here], table: Table, fault: str, cut: Cut
) -> None:
    cable = Cable(net, scripted)
    with table.survived(fault, cable.server) as watch, cable.client() as client:
        answers = cable.begin(client)
        with cut(net):
            cable.engine.gate.open()
            _until(lambda: cable.is_drawn)
            client.cancel("nobody's")  # something is sent, so that who answers it can
            _until(is_coming_back)
            assert is_coming_back()
        check_exactly_once(watch, list(answers))
        assert client.status().state == "ready"


@pytest.mark.slow
def test_a_network_that_is_away_for_half_a_minute_costs_nothing(
    net: Network, scripted: Callable[..., Here], table: Table
) -> None:
    """With the times of real life on both sides."""
    cable = Cable(net, scripted, keepalive=SocketOptions().keepalive)
    from runai.client.link import KEEPALIVE

    with (
        table.survived("the network is cut for 30 s, and back", cable.server) as watch,
        cable.client(keepalive=KEEPALIVE) as client,
    ):
        answers = cable.begin(client)
        with net.cut():
            cable.engine.gate.open()
            time.sleep(30.0)  # that long it is
            assert cable.is_drawn
        check_exactly_once(watch, list(answers))


def test_after_a_cut_longer_than_the_server_waits_the_client_is_told(
    net: Network, scripted: Callable[..., Here], table: Table
) -> None:
    cable = Cable(net, scripted, resume_s=0.5)
    fault = "the network is cut for longer than --resume-s"
    with table.survived(fault, cable.server) as watch, cable.client() as client:
        answers = cable.begin(client)
        with net.cut():
            cable.engine.gate.let_pass()  # what is said of it cannot be confirmed
            _until(lambda: cable.is_drawn)
            assert cable.is_drawn, "the request was not canceled"
        cable.engine.gate.open()
        with pytest.raises(ConnectionLost, match="not there any more") as caught:
            list(answers)
        watch.saw(caught.value.code)
        assert client.status().state == "ready"
    assert cable.engine.requests("drop").count("far") == 1


@pytest.mark.parametrize("state", ["idle", "drawn for"])
def test_a_client_that_vanishes_without_a_word_is_found_out(
    net: Network, scripted: Callable[..., Here], table: Table, state: str
) -> None:
    cable = Cable(net, scripted)
    with table.survived(f"half-open: a client vanishes while {state}", cable.server) as watch:
        before = cable.server.service.status().clients
        with net.at_client():
            client = RawClient(cable.server.port, host=network.SERVER)
            client.hello()
        if state == "drawn for":
            cable.engine.gate.close()
            client.send(generate("far", num_inference_steps=STEPS))
            client.receive_type("accepted")
            cable.engine.gate.wait_until_reached()
        began = time.monotonic()
        with net.cut():
            _until(lambda: cable.server.service.status().clients == before)
            assert cable.server.service.status().clients == before
            watch.saw(f"given up after {time.monotonic() - began:.0f} s")
            cable.engine.gate.open()
            client.close()
    assert (state == "idle") or "far" in cable.engine.requests("drop")
