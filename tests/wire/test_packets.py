from __future__ import annotations

import pytest

from runai.wire.packets import CANCEL, NUL, QUIT, encode, packet_of, pad


@pytest.mark.parametrize(
    ("length", "packets"), [(1, 1), (1023, 1), (1024, 1), (1025, 2), (2048, 2), (2049, 3)]
)
def test_a_body_fills_as_few_packets_as_it_can_and_one_eom_follows(
    length: int, packets: int
) -> None:
    data = encode(b"a" * length, 1024)
    assert len(data) == (packets + 1) * 1024
    assert data[:length] == b"a" * length
    assert data[length:] == NUL * (len(data) - length)


def test_an_empty_body_is_an_eom_alone() -> None:
    assert encode(b"", 8) == NUL * 8


def test_a_body_that_fills_its_packets_is_not_padded() -> None:
    assert pad(b"abcd", 2) == b"abcd"


@pytest.mark.parametrize("body", [b"a\0b", b"\0", b"ab\0"])
def test_a_body_with_a_nul_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="NUL"):
        encode(body, 1024)


@pytest.mark.parametrize("body", [QUIT * 8, CANCEL * 8, CANCEL * 8 + b"more"])
def test_a_body_that_would_read_as_a_control_packet_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="control"):
        encode(body, 8)


def test_letters_that_do_not_fill_a_packet_are_no_control_packet() -> None:
    assert pad(QUIT * 7, 8) == QUIT * 7 + NUL


def test_a_packet_has_at_least_one_byte() -> None:
    assert packet_of(QUIT, 1) == b"x"
    with pytest.raises(ValueError, match="at least 1"):
        packet_of(QUIT, 0)
