"""Reading tensors: exact, bounded in memory, and a broken file is an error, never a crash."""

from __future__ import annotations

import json
import os
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from runai.engine.devices import choose
from runai.engine.loading import weights
from runai.engine.loading.weights import PIECE_BYTES, Reader, read_index
from runai.errors import ModelBroken

BF16 = choose("cpu", "bf16")
ODD = PIECE_BYTES // 4 + 12345  # elements: more than a piece, and not a whole number of them


def write(path: Path, header: Any, body: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + body)
    return path


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.float8_e5m2])
def test_a_tensor_larger_than_a_piece_is_read_exactly(tmp_path: Path, stored: torch.dtype) -> None:
    original = torch.randn(ODD).to(stored)
    save_file({"x": original, "small": torch.zeros((), dtype=stored)}, tmp_path / "x.safetensors")
    rows, _ = read_index(tmp_path / "x.safetensors")
    with Reader(BF16) as reader:
        assert torch.equal(reader.read(rows["x"]), original.to(torch.bfloat16))
        assert reader.read(rows["small"]).shape == ()


def test_a_file_that_shrinks_while_it_is_read_is_broken_not_fatal(tmp_path: Path) -> None:
    """With a mapped file this would be SIGBUS, the end of the server."""
    path = tmp_path / "x.safetensors"
    save_file({f"{i}": torch.zeros(ODD) for i in range(4)}, path)
    rows, _ = read_index(path)
    with pytest.raises(ModelBroken, match=r"x\.safetensors is cut short"), Reader(BF16) as reader:
        reader.read(rows["0"])
        os.truncate(path, path.stat().st_size // 2)
        for row in rows.values():
            reader.read(row)


def test_a_file_that_is_not_the_one_that_was_looked_into_is_not_read(tmp_path: Path) -> None:
    path, other = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    for file in (path, other):
        save_file({"a": torch.zeros(ODD)}, file)
    rows, _ = read_index(path)
    other.replace(path)
    with pytest.raises(ModelBroken, match="changed while it was read"), Reader(BF16) as reader:
        reader.read(rows["a"])


def test_a_file_that_is_written_over_behind_what_was_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(ODD)}, path)
    rows, _ = read_index(path)
    with pytest.raises(ModelBroken, match="changed while it was read"), Reader(BF16) as reader:
        reader.read(rows["a"])
        with path.open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"\1\1\1\1")


def test_a_file_that_is_cut_at_any_moment_is_broken_or_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for delay_s in (0.0, 0.001, 0.01):
        save_file({f"{i}": torch.zeros(ODD) for i in range(20)}, path)
        timer = threading.Timer(delay_s, os.truncate, (path, 1000))
        timer.start()
        try:
            rows, _ = read_index(path)
            with Reader(BF16) as reader:
                read = [reader.read(row) for row in rows.values()]
        except ModelBroken:
            pass
        else:
            assert all(tensor.count_nonzero() == 0 for tensor in read)
        timer.join()


def test_no_file_stays_open(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(3)}, tmp_path / "x.safetensors")
    before = len(list(Path("/proc/self/fd").iterdir()))
    rows, _ = read_index(tmp_path / "x.safetensors")
    with Reader(BF16) as reader:
        reader.read(rows["x"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def row(shape: Any, offsets: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"x": ' * 20_000,
        b'{"x": 1}',
        b'{"__metadata__": 3, "x": {"dtype": "F32", "shape": "ab", "data_offsets": 1}}',
        row([2], [0, 4]),  # less than it says
        row([1], [0, 800]),  # more
        row([-1, -1], [0, 4]),
        row([1], [-4, 0]),
        row([2**62, 4], [0, 0]),
        row([1], [0, 4], "F31"),
        row([1.5], [0, 6]),
        row([1], [0, 4, 8]),
        row([1], None),
        {"x": {"shape": [1], "data_offsets": [0, 4]}},
    ],
)
def test_an_unsound_header_is_broken(tmp_path: Path, header: Any) -> None:
    path = write(tmp_path / "x.safetensors", header, bytes(4))
    with pytest.raises(ModelBroken, match=r"x\.safetensors"):
        read_index(path)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**62, 2**64 - 1])
def test_a_header_of_absurd_length_is_broken(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" * 10)
    with pytest.raises(ModelBroken, match="not a safetensors file"):
        read_index(path)


def test_a_file_that_is_cut_short_says_how_much_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", row([8], [0, 32]), bytes(16))
    size = path.stat().st_size
    with pytest.raises(ModelBroken, match=f"{size} of {size + 16} bytes are there"):
        read_index(path)


def test_metadata_is_read_along(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", {"a": "b"})
    assert read_index(tmp_path / "x.safetensors")[1] == {"a": "b"}


def test_rows_of_a_tensor_are_a_part_of_its_bytes() -> None:
    whole = weights.Stored(Path("x"), torch.float16, (6, 4), (4, 1), 100)
    part = whole.rows(2, 3)
    assert (part.shape, part.offset) == ((3, 4), 100 + 2 * 4 * 2)
    assert part.contiguous
