"""What torch's own files (.ckpt, .pt, .bin) hold, without torch and without running them.

PURE. Two forms: since torch 1.6 a zip archive of one pickle, `<folder>/data.pkl`, and one
uncompressed member per storage; before that a row of pickles (a magic number, a version, facts
of the machine, the content, the storages' keys) followed by the storages' bytes
(torch/serialization.py, `_legacy_save`). The pickles go through `pickle_machine`.

Bounded: at most `MAX_BYTES` are read of a file, whatever it claims.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

from runai.engine.detection import pickle_machine
from runai.engine.detection.harmless import BYTES
from runai.engine.detection.pickle_machine import Call, Malformed, Tensor

MAX_BYTES = 32 * 2**20
MAGIC = 0x1950A86A20F9469CFC6C
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,  # encrypted
    ValueError,
    NotImplementedError,
)


@dataclass(frozen=True)
class Content:
    """The tensors by name, and everything else that lies beside them at the top."""

    tensors: dict[str, Tensor]
    beside: dict[str, Any]


def read_torch_file(file: BinaryIO, size: int) -> Content:
    """What a file holds. Raises Malformed, or Unsafe naming what it would import."""
    is_zip = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    return _content(_read_zip(file) if is_zip else _read_legacy(file, size))


def _read_zip(file: BinaryIO) -> Any:
    try:
        with zipfile.ZipFile(_Bounded(file)) as archive:
            found = [m for m in archive.infolist() if m.filename.endswith("/data.pkl")]
            if len(found) != 1:
                raise Malformed("it is an archive, but not one of torch's")
            if found[0].compress_type != zipfile.ZIP_STORED:
                raise Malformed("its members are compressed, which torch's never are")
            raw = archive.read(found[0])
    except _ZIP_ERRORS as error:
        raise Malformed(f"it is cut short or damaged ({error})") from None
    return pickle_machine.read(io.BytesIO(raw))


def _read_legacy(file: BinaryIO, size: int) -> Any:
    start = io.BytesIO(file.read(MAX_BYTES))
    if pickle_machine.read(start) != MAGIC:
        raise Malformed("it is a pickle, but not one of torch's")
    for _ in ("version", "machine"):
        pickle_machine.read(start)
    value = pickle_machine.read(start)
    pickle_machine.read(start)  # the storages' keys
    storages = {t.storage.key: t.storage for t in _content(value).tensors.values()}
    needed = start.tell() + sum(8 + s.count * BYTES.get(s.dtype, 1) for s in storages.values())
    if needed > size:
        raise Malformed(f"it is cut short: {size} of {needed} bytes are there")
    return value


class _Bounded(io.RawIOBase):
    """A file of which only so much can be read."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._left = MAX_BYTES

    def read(self, size: int = -1) -> bytes:
        # one byte more than is left, so that reading on and on ends here
        got = self._file.read(self._left + 1 if size < 0 else min(self._left + 1, size))
        self._left -= len(got)
        if self._left < 0:
            raise Malformed(f"its description is larger than {MAX_BYTES >> 20} MB")
        return got

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def _content(value: Any) -> Content:
    """Sorted out: the weights lie at the top, or under `state_dict`."""
    top = _mapping(value)
    weights = _mapping(top.get("state_dict", top))
    tensors = {k: v for k, v in weights.items() if isinstance(k, str) and isinstance(v, Tensor)}
    rest = {k: v for k, v in top.items() if isinstance(k, str) and k != "state_dict"}
    return Content(tensors, {k: v for k, v in rest.items() if not isinstance(v, Tensor)})


def _mapping(value: Any) -> dict[Any, Any]:
    """A dictionary, also where torch's ParameterDict wraps it."""
    if isinstance(value, Call) and isinstance(value.state, dict):
        return _mapping(value.state.get("_parameters"))
    return value if isinstance(value, dict) else {}


def vectors_in(content: Content) -> dict[str, Tensor]:
    """The vectors of a textual inversion in the web UI's form, by the words they stand for."""
    found = _mapping(content.beside.get("string_to_param"))
    return {str(word): value for word, value in found.items() if isinstance(value, Tensor)}
