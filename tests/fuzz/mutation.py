"""Changes to inputs, the same on every run: for the bounded part of fuzzing, in the tests.

Blind to what the code does with them, unlike `run.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

MOST_CHANGES = 4
BYTES = (b"\0", b"\xff", b"\x80", b"\n", b'"', b"\\", b"(", b")", b"[", b"]", b"{", b"}", b":")
NUMBERS = (b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b"\xff\xff\xff\xff", b"\0\0\0\x80")
TOKENS = (*BYTES, *NUMBERS, b"\xed\xa0\x80", b"\xef\xbb\xbf", "İ".encode(), b"null", b"\\ud800")
Change = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def _place(chance: random.Random, data: bytes) -> int:
    return chance.randint(0, len(data))


def _flip(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = _place(chance, data[1:])
    return (
        data[:at]
        + bytes(byte ^ 1 << chance.randrange(8) for byte in data[at : at + 1])
        + data[at + 1 :]
    )


def _insert(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = _place(chance, data)
    return data[:at] + chance.choice(TOKENS) + data[at + chance.randint(0, 3) :]


def _cut(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    first, last = sorted((_place(chance, data), _place(chance, data)))
    return data[:first] + data[last:]


def _repeat(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    first = _place(chance, data)
    last = min(len(data), first + chance.randint(1, 40))
    return data[:last] + data[first:last] * chance.randint(1, 20) + data[last:]


def _splice(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = chance.choice(others)
    return data[: _place(chance, data)] + other[_place(chance, other) :]


CHANGES: tuple[Change, ...] = (_flip, _flip, _insert, _insert, _cut, _repeat, _splice)


def mutants(inputs: Sequence[bytes], count: int, seed: str) -> Iterator[bytes]:
    """`count` changed inputs."""
    chance = random.Random(seed)
    for _ in range(count):
        data = chance.choice(inputs)
        for _ in range(chance.randint(1, MOST_CHANGES)):
            data = chance.choice(CHANGES)(chance, data, inputs)
        yield data
