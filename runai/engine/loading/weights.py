"""Tensors in files: what is where, and reading one of them to where it will live.

Theory of operation. Every kind of weights file comes down to rows of `Stored`: number format,
shape and place of each tensor's bytes. The bytes are read (`pread`) piece by piece into a small
buffer and converted from there into the tensor that stays, so that the peak is the weights in
their final format and nothing else. Files are not mapped: one that is shortened while it is
mapped kills the process with SIGBUS, where a read comes back short and becomes an error. One
that is written over, or has another put in its place, between the look into it and the last
read would be read as nonsense: so what it was at that look is compared with what is read.

What the two kinds of file look like: `detection.header` and `pickles`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from runai.engine import pickles
from runai.engine.detection.header import is_safetensors, table_of
from runai.engine.devices import Place
from runai.errors import ModelBroken, ModelUnsupported

MOST_SHARING = 4  # times that a byte of a file of torch's may be in a tensor
# read and converted at once. torch wakes a team of threads for each piece: with pieces of 4 MiB
# that took three times as long on a machine with other work to do, with these it does not
PIECE_BYTES = 2**24
# https://github.com/huggingface/safetensors/blob/main/safetensors/src/tensor.rs, enum Dtype
DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


State = tuple[int, int, int, int]
"""Of a file: device, inode, time of its last change in ns, size."""


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: its first byte is at `offset`. `strides` in elements.

    `state`: of the file when it was looked into; None: whatever is there is read.
    """

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    state: State | None = None

    @property
    def contiguous(self) -> bool:
        whole = zip(self.shape, self.strides, contiguous_strides(self.shape), strict=True)
        return all(is_ == should for size, is_, should in whole if size > 1)

    def rows(self, first: int, count: int) -> Stored:
        """`count` of its rows, from `first` on."""
        start = self.offset + first * self.strides[0] * self.dtype.itemsize
        return replace(self, shape=(count, *self.shape[1:]), offset=start)


Rows = dict[str, Stored]


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


class Reader:
    """Reads tensors of a few files to their place; close it (`with`) when all are read."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._files: dict[Path, tuple[int, State]] = {}
        self._buffer = torch.empty(PIECE_BYTES, dtype=torch.uint8)

    @property
    def device(self) -> torch.device:
        return self._place.device

    @property
    def dtype(self) -> torch.dtype:
        return self._place.dtype

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        changed = [path for path, (file, state) in self._files.items() if _state(file) != state]
        for file, _state_then in self._files.values():
            os.close(file)
        if changed and error is None:
            raise _changed(changed[0])

    def read(self, stored: Stored) -> torch.Tensor:
        """The tensor in the place's dtype on its device.

        ModelBroken if the file ends early or is not the one that was looked into; if it was
        changed in between, when all is read.
        """
        if not stored.contiguous:
            return self._read_strided(stored)
        tensor = torch.empty(stored.shape, dtype=self._place.dtype, device=self._place.device)
        self._fill(tensor.reshape(-1), stored)
        return tensor

    def _read_strided(self, stored: Stored) -> torch.Tensor:
        spans = zip(stored.shape, stored.strides, strict=True)
        extent = 1 + sum((size - 1) * stride for size, stride in spans)
        flat = replace(stored, shape=(extent,), strides=(1,))
        return self.read(flat).as_strided(stored.shape, stored.strides).contiguous()

    def _fill(self, flat: torch.Tensor, stored: Stored) -> None:
        file = self._open(stored)
        if flat.dtype == stored.dtype and flat.device.type == "cpu":
            _read_into(file, flat.view(torch.uint8), stored)
            return
        step = PIECE_BYTES // stored.dtype.itemsize
        for start in range(0, len(flat), step):
            target = flat[start : start + step]
            piece = self._buffer[: len(target) * stored.dtype.itemsize]
            _read_into(file, piece, stored, start * stored.dtype.itemsize)
            target.copy_(piece.view(stored.dtype).to(target.device))

    def _open(self, stored: Stored) -> int:
        if stored.path not in self._files:
            file = os.open(stored.path, os.O_RDONLY | os.O_CLOEXEC)
            self._files[stored.path] = file, _state(file)
        file, state = self._files[stored.path]
        if stored.state not in (state, None):
            raise _changed(stored.path)
        return file


def _state(file: int) -> State:
    status = os.fstat(file)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _changed(path: Path) -> ModelBroken:
    return ModelBroken(
        f"{path.name} was changed while it was read.",
        hint="Ask again when it has been written whole.",
    )


def _read_into(file: int, target: torch.Tensor, stored: Stored, skip: int = 0) -> None:
    """Fill a tensor of bytes from the file."""
    view = target.numpy().data
    done = 0
    while done < len(view):
        got = os.preadv(file, [view[done:]], stored.offset + skip + done)
        if not got:
            raise ModelBroken(f"{stored.path.name} is cut short, or was while it was read.")
        done += got


# --- what is in a file -------------------------------------------------------------------


def read_index(
    path: Path, within: Callable[[Any], dict[str, pickles.Tensor]] = pickles.state_dict
) -> tuple[Rows, dict[str, str]]:
    """The tensors of a file, by name, and its metadata; its first bytes say of which kind it is.

    `within`: finds the tensors in what a file of torch's holds.
    Raises ModelBroken for anything unsound, ModelUnsafe for a pickle that could run code.
    """
    with path.open("rb") as file:
        start, state = file.read(9), _state(file.fileno())
    if is_safetensors(start):
        return _safetensors(path, state)
    return _rows_of(path, within(pickles.read(path)), state), {}


def _rows_of(path: Path, tensors: Mapping[str, pickles.Tensor], state: State) -> Rows:
    """Where the tensors are that `pickles` has found in a file.

    Raises ModelBroken for views of so little that they are no weights.
    """
    sizes = (row.itemsize * math.prod(max(1, side) for side in row.shape)
             for row in tensors.values())  # fmt: skip
    if sum(sizes) > MOST_SHARING * path.stat().st_size:
        raise ModelBroken(f"{path.name} claims tensors that are larger than the file.")
    return {
        name: Stored(path, DTYPES[row.dtype], row.shape, row.strides, row.offset, state)
        for name, row in tensors.items()
    }


def _safetensors(path: Path, state: State) -> tuple[Rows, dict[str, str]]:
    with path.open("rb") as file:
        rows, metadata, start = table_of(file, path.stat().st_size, path.name)
    strange = {row["dtype"] for row in rows.values()} - DTYPES.keys()
    if strange:
        raise ModelUnsupported(f"{path.name} holds numbers of the format {min(strange)}.")
    return {name: _row(path, row, start, state) for name, row in rows.items()}, metadata


def _row(path: Path, row: Mapping[str, Any], start: int, state: State) -> Stored:
    shape = tuple(row["shape"])
    first = start + row["data_offsets"][0]
    return Stored(path, DTYPES[row["dtype"]], shape, contiguous_strides(shape), first, state)
