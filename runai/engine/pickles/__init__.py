"""What a .ckpt, .pt or .bin file holds, without ever unpickling it.

torch.save writes a pickle, which is a program for a small stack machine,
and beside it the tensors' bytes. Here that program is read, not run: containers and plain
values are built, and whatever the pickle *names* (classes, functions) stays a name. Nothing is
imported and nothing is called, so a file cannot run code whatever it says. The few names that
make up tensors are understood; some that old trainers leave behind are let through as inert
placeholders; any other makes the file unsafe.

Two forms (torch/serialization.py): a zip archive of uncompressed members, ROOT/data.pkl and
ROOT/data/KEY; and the legacy form before torch 1.6, five pickles and then the storages one
after the other. Sizes that the file claims are compared with what is there. No torch.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from runai.engine.pickles.known import DTYPES
from runai.engine.pickles.machine import Damaged, Machine, Storage, View
from runai.errors import ModelBroken, ModelUnsafe

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_DEPTH = 6
_FAULTS = (
    Damaged,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    struct.error,
    zipfile.BadZipFile,
    NotImplementedError,
    MemoryError,
    RecursionError,
)


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file; `dtype` as safetensors calls it, `strides` in elements, `offset` in
    bytes from the file's start.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


def read(path: Path) -> Any:
    """The file's content: plain containers and values with `Tensor`s in them.

    Raises ModelUnsafe if the file names anything that is not known to be harmless, ModelBroken
    if it is none of the two forms or damaged.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _read_zip(file) if zipped else _read_legacy(file)
    except ModelUnsafe as error:
        raise ModelUnsafe(f"{path.name} {error.message}") from None
    except _FAULTS as error:
        raise ModelBroken(f"{path.name} is damaged or not a checkpoint: {error}.") from error


def state_dict(content: Any) -> dict[str, Tensor]:
    """The tensors by name, from where trainers put them: on top or under `state_dict`."""
    inner = content.get("state_dict", content) if isinstance(content, dict) else {}
    weights = inner if isinstance(inner, dict) else {}
    return {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}


# --- the two forms -----------------------------------------------------------------------


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise Damaged("two members have one name")
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise Damaged("its members are compressed, which torch never does")
    pickles = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise Damaged("it holds no data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    _check_byte_order(file, members.get(f"{root}byteorder"))
    file.seek(_start(file, members[pickles[0]]))
    content = Machine(file).run()

    def locate(storage: Storage) -> tuple[int, int]:
        info = members[f"{root}data/{storage.key}"]
        return _start(file, info), info.file_size

    return _placed(content, locate)


def _start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its own header, whose length only it knows."""
    file.seek(info.header_offset)
    header = file.read(30)
    name, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + int(name) + int(extra)


def _check_byte_order(file: BinaryIO, info: zipfile.ZipInfo | None) -> None:
    if info is None:
        return
    file.seek(_start(file, info))
    if file.read(6) != b"little":
        raise Damaged("its numbers are stored with the high byte first")


def _read_legacy(file: BinaryIO) -> Any:
    if Machine(file).run() != LEGACY_MAGIC:
        raise Damaged("it does not begin as torch's files do")
    Machine(file).run()  # the form's version
    Machine(file).run()  # sizes of numbers on the machine that wrote it
    machine = Machine(file)
    content = machine.run()
    keys = Machine(file).run()
    size = os.fstat(file.fileno()).st_size
    starts: dict[str, tuple[int, int]] = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        length = count * DTYPES[machine.storages[key].kind][1]
        if not 0 <= length <= size - file.tell():
            raise Damaged("it is cut short")
        starts[key] = (file.tell(), length)
        file.seek(length, os.SEEK_CUR)
    return _placed(content, lambda storage: starts[storage.key])


# --- from views to tensors ---------------------------------------------------------------

Locate = Callable[[Storage], tuple[int, int]]


def _placed(content: Any, locate: Locate) -> Any:
    """The content with tensors in the place of views, wherever dicts lead.

    Each container is done once: one that is in many places, or in itself, costs no more.
    """
    done: dict[int, Any] = {}

    def place(part: Any, depth: int) -> Any:
        if isinstance(part, View):
            return _tensor(part, locate)
        if not isinstance(part, dict):
            return part
        if depth > MAX_DEPTH:
            raise Damaged("its containers are nested too deeply")
        if id(part) not in done:
            whole: dict[Any, Any] = {}
            done[id(part)] = whole
            whole.update((key, place(value, depth + 1)) for key, value in part.items())
        return done[id(part)]

    return place(content, 0)


def _tensor(view: View, locate: Locate) -> Tensor:
    dtype, itemsize = DTYPES[view.kind]
    start, length = locate(view.storage)
    spans = zip(view.shape, view.strides, strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in spans) if all(view.shape) else 0
    if min((view.first, *view.shape, *view.strides)) < 0:
        raise Damaged("a tensor has a negative size")
    if (view.first + extent) * itemsize > length:
        raise Damaged("a tensor is larger than its storage")
    return Tensor(dtype, view.shape, view.strides, start + view.first * itemsize)
