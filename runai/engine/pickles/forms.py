"""The two forms of torch's files (torch/serialization.py).

Since torch 1.6 a zip archive of uncompressed members: one pickle, ROOT/data.pkl, and one
ROOT/data/KEY for each storage. Before: five pickles (a magic number, a version, facts of the
machine, the content, the storages' keys), then the storages one after the other.

Bounded: of a file no more than MAX_PICKLE_BYTES of pickles, and as much of an archive's table
of members, are read, whatever it claims. Every tensor is checked to lie within its storage,
and every storage within the file.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from typing import Any, BinaryIO

from runai.engine.pickles.known import DTYPES
from runai.engine.pickles.machine import Damaged, Machine, Storage, Tensor

MAX_PICKLE_BYTES = 32 * 2**20
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_ZIP_START = b"PK\x03\x04"
_LOCAL_HEADER = 30
_FAULTS = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    struct.error,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
)


def look(file: BinaryIO, *, placed: bool = False) -> Any:
    """What the file holds: plain containers and values with `Tensor`s in them.

    `placed`: with every tensor's offset, for which an archive is read at as many places as it
    has members. Raises Unsafe, Damaged.
    """
    try:
        zipped = file.read(len(_ZIP_START)) == _ZIP_START
        file.seek(0)
        return _look_into_zip(file, placed=placed) if zipped else _look_into_legacy(file)
    except _FAULTS:
        raise Damaged("it is cut short or damaged") from None


def _check(tensor: Tensor) -> None:
    """Raise Damaged for a tensor that does not lie within its storage, or has more numbers."""
    spans = zip(tensor.shape, tensor.strides, strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in spans) if all(tensor.shape) else 0
    numbers = max(tensor.first + extent, math.prod(tensor.shape))
    if numbers * tensor.itemsize > tensor.storage.length:
        raise Damaged("a tensor is larger than its storage")


# --- the zip archive ---------------------------------------------------------------------


def _look_into_zip(file: BinaryIO, *, placed: bool) -> Any:
    members = _members(file)
    pickles = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise Damaged("it is an archive, but not one of torch's")
    root = pickles[0].removesuffix("data.pkl")
    if (order := members.get(f"{root}byteorder")) and _content(file, order) != b"little":
        raise Damaged("its numbers are stored with the high byte first")
    machine = Machine(_content(file, members[pickles[0]]))
    content = machine.run()
    for storage in machine.storages.values():
        member = members[f"{root}data/{storage.key}"]
        storage.length = member.file_size
        if placed:
            storage.start = _start(file, member)
    for tensor in machine.tensors:
        _check(tensor)
    return content


def _members(file: BinaryIO) -> dict[str, zipfile.ZipInfo]:
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(_Bounded(file)) as archive:
        infos = archive.infolist()
    members = {info.filename: info for info in infos}
    if len(members) != len(infos):
        raise Damaged("two of its members have one name")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise Damaged("its members are compressed, which torch's never are")
    if any(info.header_offset + info.file_size > size for info in infos):
        raise Damaged("it is cut short")
    return members


def _start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its own header, whose length only it knows."""
    file.seek(info.header_offset)
    name, extra = struct.unpack("<26xHH", file.read(_LOCAL_HEADER))
    return info.header_offset + _LOCAL_HEADER + int(name) + int(extra)


def _content(file: BinaryIO, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > MAX_PICKLE_BYTES:
        raise Damaged(f"its description is larger than {MAX_PICKLE_BYTES >> 20} MB")
    file.seek(_start(file, info))
    return file.read(info.file_size)


class _Bounded(io.RawIOBase):
    """A file of which only so much can be read, for whoever trusts the sizes it claims."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._left = MAX_PICKLE_BYTES

    def read(self, size: int = -1) -> bytes:
        # one byte more than is left, so that reading on and on ends here
        got = self._file.read(self._left + 1 if size < 0 else min(self._left + 1, size))
        self._left -= len(got)
        if self._left < 0:
            raise Damaged(f"its description is larger than {MAX_PICKLE_BYTES >> 20} MB")
        return got

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


# --- the form before torch 1.6 -----------------------------------------------------------


def _look_into_legacy(file: BinaryIO) -> Any:
    data = file.read(MAX_PICKLE_BYTES)
    machine = Machine(data)
    if machine.run() != LEGACY_MAGIC:
        raise Damaged("it is a pickle, but not one of torch's")
    for _ in ("the form's version", "sizes of numbers where it was written", "the content"):
        machine = Machine(data, machine.at)
        content = machine.run()
    keys = Machine(data, machine.at)
    _place(file, keys.run(), keys.at, machine.storages)
    for tensor in machine.tensors:
        _check(tensor)
    return content


def _place(file: BinaryIO, keys: list[Any], at: int, storages: dict[str, Storage]) -> None:
    """Where the storages are: each behind its number of elements, from `at` on."""
    size = os.fstat(file.fileno()).st_size
    for key in keys:
        if not isinstance(key, str):
            raise Damaged("a storage has an absurd key")
        storage = storages[key]
        file.seek(at)
        (count,) = struct.unpack("<q", file.read(8))
        storage.start, storage.length = at + 8, count * DTYPES[storage.kind][1]
        if not 0 <= storage.length <= size - storage.start:
            raise Damaged(f"it is cut short: {size} bytes are there")
        at = storage.start + storage.length
