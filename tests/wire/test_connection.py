"""Every case is fed whole, byte by byte, and with more data behind it."""

from __future__ import annotations

import pytest

from runai.errors import MessageTooLarge, Truncated
from runai.wire.connection import (
    TRANSITIONS,
    Cancel,
    Closed,
    Connection,
    CutShort,
    Message,
    Quit,
    Role,
    State,
    TooLarge,
    What,
    WireEvent,
)
from runai.wire.packets import encode
from tests.wire.feeding import LIMIT, PACKET, events_of, feed, server, single_bytes

EOM = b"\0" * PACKET
CANCEL = b"c" * PACKET
QUIT = b"x" * PACKET


def message(body: bytes) -> bytes:
    return encode(body, PACKET)


CASES: dict[str, tuple[bytes, list[WireEvent]]] = {
    "a short message": (message(b"{}"), [Message(b"{}")]),
    "an empty message": (EOM, [Message(b"")]),
    "a message of one packet exactly": (message(b"a" * 16), [Message(b"a" * 16)]),
    "a message of two packets and a byte": (message(b"a" * 33), [Message(b"a" * 33)]),
    "two messages": (message(b"a") + message(b"b"), [Message(b"a"), Message(b"b")]),
    "a cancel between messages": (
        message(b"a") + CANCEL + message(b"b"),
        [Message(b"a"), Cancel(), Message(b"b")],
    ),
    "control letters inside a message": (
        b"{" * 16 + CANCEL + QUIT + EOM,
        [Message(b"{" * 16 + CANCEL + QUIT)],
    ),
    "a message as large as allowed": (message(b"a" * LIMIT), [Message(b"a" * LIMIT)]),
    "a message one byte too large": (message(b"a" * (LIMIT + 1)), [TooLarge(LIMIT)]),
    "a message far too large, then a good one": (
        message(b"a" * 3 * LIMIT) + message(b"b"),
        [TooLarge(LIMIT), Message(b"b")],
    ),
    "a large message with control letters": (
        message(b"{" * 16 + b"x" * 3 * LIMIT),
        [TooLarge(LIMIT)],
    ),
    "a body with NUL inside, short of a packet": (
        b"a" + EOM[1:] + b"b" + EOM[1:] + EOM,
        [Message(b"a" + EOM[1:] + b"b")],
    ),
    "a body with many NUL, too large": (
        (b"a" + EOM[1:]) * 15 + EOM + message(b"b"),
        [TooLarge(LIMIT), Message(b"b")],
    ),
    "a body whose NUL would make an EOM off the boundary": (
        b"a" + EOM + b"b" * 15 + EOM,
        [Message(b"a" + EOM + b"b" * 15)],
    ),
}
everything = pytest.mark.parametrize(("data", "events"), CASES.values(), ids=CASES)


@everything
def test_bytes_that_come_at_once_are_understood(data: bytes, events: list[WireEvent]) -> None:
    assert feed(server(), [data]) == [*events, Closed()]


@everything
def test_bytes_that_come_one_by_one_are_understood(data: bytes, events: list[WireEvent]) -> None:
    assert feed(server(), single_bytes(data)) == [*events, Closed()]


@everything
def test_what_follows_does_not_change_what_was(data: bytes, events: list[WireEvent]) -> None:
    more = message(b"more")
    for extra in range(len(more)):
        connection = server()
        assert feed(connection, [data + more[:extra]], then_eof=False) == events
        assert feed(connection, [more[extra:]]) == [Message(b"more"), Closed()]


@everything
def test_an_end_anywhere_in_the_middle_is_said(data: bytes, events: list[WireEvent]) -> None:
    whole = {0}
    for cut in range(len(data)):
        got = feed(server(), [data[:cut]])
        assert got[:-1] == events[: len(got) - 1]
        assert got[-1] in (Closed(), CutShort())
        assert got == feed(server(), single_bytes(data[:cut]))
        whole |= {cut} if got[-1] == Closed() else set()
    assert all(cut % PACKET == 0 for cut in whole)


def test_nothing_comes_after_quit() -> None:
    connection = server()
    assert feed(connection, [QUIT + message(b"a"), message(b"b")]) == [Quit()]


def test_nothing_comes_after_the_end() -> None:
    connection = server()
    assert feed(connection, []) == [Closed()]
    assert list(events_of(connection)) == []


def test_half_a_control_packet_at_the_end_is_cut_short() -> None:
    assert feed(server(), [b"c" * 8]) == [CutShort()]


def test_a_message_that_is_too_large_is_not_kept_in_memory() -> None:
    connection = server()
    feed(connection, [b"a" * 1000] * 1000, then_eof=False)
    assert len(connection._buffer) < PACKET + 1000


def test_nor_is_one_that_always_ends_in_the_middle_of_a_packet_with_a_nul() -> None:
    connection = server()
    packet = b"a\0" + b"a" * (PACKET - 2)
    for number in range(200):
        piece = packet[:3] if number == 0 else packet[3:] + packet[:3]
        feed(connection, [piece], then_eof=False)
    assert len(connection._buffer) <= LIMIT + 3 * PACKET


def test_a_client_reads_control_letters_as_a_body() -> None:
    connection = Connection(Role.CLIENT, PACKET, LIMIT)
    assert feed(connection, [QUIT + CANCEL + EOM]) == [Message(QUIT + CANCEL), Closed()]


def test_the_events_that_are_errors_say_which() -> None:
    assert isinstance(TooLarge(LIMIT).error, MessageTooLarge)
    assert str(LIMIT) in TooLarge(LIMIT).error.message
    assert isinstance(CutShort().error, Truncated)


def test_a_message_is_sent_as_its_packets_and_its_eom() -> None:
    connection = server()
    connection.send_message(b"{}")
    connection.send_message(b"a" * 17)
    assert connection.data_to_send() == [
        b"{}" + b"\0" * 14,
        EOM,
        b"a" * 17 + b"\0" * 15,
        EOM,
    ]
    assert connection.data_to_send() == []


def test_a_client_sends_what_a_server_understands() -> None:
    client = Connection(Role.CLIENT, PACKET, LIMIT)
    client.send_message(b"a")
    client.send_cancel()
    client.send_message(b"")
    client.send_quit()
    assert feed(server(), client.data_to_send()) == [
        Message(b"a"),
        Cancel(),
        Message(b""),
        Quit(),
    ]


def test_a_server_sends_no_control_packets() -> None:
    with pytest.raises(ValueError, match="only a client"):
        server().send_quit()
    with pytest.raises(ValueError, match="only a client"):
        server().send_cancel()


def test_every_state_that_is_not_the_end_leads_to_it() -> None:
    assert {source for source, _ in TRANSITIONS} == set(State) - {State.ENDED}
    for state in set(State) - {State.ENDED}:
        assert TRANSITIONS[state, What.EOF] is State.ENDED
