"""Properties: how bytes are cut, and how large packets are, changes nothing."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from runai.wire.connection import (
    Cancel,
    Closed,
    Connection,
    Message,
    Role,
    TooLarge,
    WireEvent,
)
from tests.wire.feeding import feed

LIMIT = 200
BODIES = st.binary(max_size=60).map(lambda data: b"{" + data.replace(b"\0", b"0"))
THINGS = st.lists(
    st.one_of(
        BODIES.map(Message),
        st.just(Message(b"")),
        st.just(Cancel()),
        st.integers(LIMIT + 1, 3 * LIMIT).map(lambda size: Message(b"{" * size)),
        st.just(Message(b"{" * LIMIT)),
    ),
    max_size=6,
)


def bytes_of(things: list[Message | Cancel], packet_size: int) -> bytes:
    client = Connection(Role.CLIENT, packet_size)
    for thing in things:
        if isinstance(thing, Message):
            client.send_message(thing.body)
        else:
            client.send_cancel()
    return b"".join(client.data_to_send())


def understood(thing: Message | Cancel) -> WireEvent:
    if isinstance(thing, Message) and len(thing.body) > LIMIT:
        return TooLarge(LIMIT)
    return thing


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(ends)]


CUTS = st.lists(st.integers(0, 2**20), max_size=12)


@settings(max_examples=400)
@given(things=THINGS, packet_size=st.integers(1, 70), cuts=CUTS)
def test_any_cutting_of_any_messages_gives_them_back(
    things: list[Message | Cancel], packet_size: int, cuts: list[int]
) -> None:
    data = bytes_of(things, packet_size)
    connection = Connection(Role.SERVER, packet_size, LIMIT)
    assert feed(connection, pieces(data, cuts)) == [*map(understood, things), Closed()]


@settings(max_examples=400)
@given(
    data=st.lists(st.sampled_from([b"\0", b"x", b"c", b"{", b"\0" * 5, b"x" * 5]), max_size=80),
    packet_size=st.integers(1, 6),
    limit=st.integers(0, 20),
    cuts=CUTS,
)
def test_any_cutting_of_any_bytes_gives_the_same_events(
    data: list[bytes], packet_size: int, limit: int, cuts: list[int]
) -> None:
    whole = b"".join(data)
    at_once = feed(Connection(Role.SERVER, packet_size, limit), [whole])
    in_pieces = feed(Connection(Role.SERVER, packet_size, limit), pieces(whole, cuts))
    assert in_pieces == at_once
