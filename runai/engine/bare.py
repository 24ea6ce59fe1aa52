"""Picture files bared to what makes their pixels, before a decoder sees them.

PURE. PNG and JPEG files are rows of parts, most of which say something beside the picture:
texts, colour profiles, thumbnails, EXIF, further frames, a video behind it. A few bytes of those
can be unpacked to gigabytes, or be gone through for minutes. Here they are cut out unread; of
EXIF only the one number is kept that says which way is up, and where it is damaged it says
nothing.

Bounded: at most MAX_PARTS parts of a file are walked over, and a JPEG has at most MAX_SCANS
scans, each of which a decoder goes through the whole picture for. Files of other kinds are given
back as they are. Sources: the PNG specification (3rd edition, 5), ITU T.81 (Annex B), EXIF 2.3.

Does not know whether the pixels are sound, nor how many they are: that is the decoder's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8"
MAX_PARTS = 100_000
MAX_SCANS = 100  # a progressive picture has about 10
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_CHUNK = struct.Struct(">I4s")
_CHUNK_REST = 4  # the checksum
_SEGMENT = struct.Struct(">xBH")
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"
# markers of JPEG without a length: TEM, RST0 to RST7; what EXIF and others beside the picture use
_ALONE = {0x01, *range(0xD0, 0xD8)}
_APP1, _COMMENT = 0xE1, 0xFE
_BESIDE = {*range(_APP1, 0xF0), _COMMENT} - {0xEE}  # Adobe's tells how colours are meant
_SEGMENTS = {*range(0xC0, 0xD0), *range(0xDA, 0xF0), _COMMENT} - {0xC8}
_EXIF = b"Exif\0\0"
_ORIENTATION, _SHORT = 0x0112, 3


class Misshapen(ValueError):
    """The file's parts do not lie as they should, or are more than any picture has."""


@dataclass(frozen=True)
class Bare:
    """`data`: what makes the pixels. `exif`: what the file holds of it, empty if nothing."""

    data: bytes
    exif: bytes = b""


def bared(data: bytes) -> Bare:
    """A file of which nothing is left but its pixels. Raises Misshapen."""
    if data.startswith(PNG_START):
        return _png(data)
    if data.startswith(JPEG_START):
        return _jpeg(data)
    return Bare(data)


def orientation(exif: bytes) -> int:
    """Which way a picture is turned: 1 (upright, also where nothing is said) to 8."""
    tiff = exif.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        rows = struct.iter_unpack(f"{order}HHIHxx", tiff[start + 2 : start + 2 + 12 * count])
        said = [value for tag, kind, _, value in rows if (tag, kind) == (_ORIENTATION, _SHORT)]
    except struct.error:
        return 1
    return said[0] if said and 1 <= said[0] <= 8 else 1


# --- PNG ---------------------------------------------------------------------------------


def _png(data: bytes) -> Bare:
    kept: list[bytes | memoryview] = [PNG_START]
    exif = b""
    for kind, chunk in _chunks(data):
        if kind in _PNG_KEPT:
            kept.append(chunk)
        elif kind == b"eXIf":
            exif = bytes(chunk[8:-4])
    return Bare(b"".join(kept), exif)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and all bytes of each chunk, up to the picture's end."""
    view, at = memoryview(data), len(PNG_START)
    for _ in range(MAX_PARTS):
        if at == len(data):
            return
        length, kind = _unpacked(_CHUNK, data, at)
        end = at + _CHUNK.size + length + _CHUNK_REST
        if end > len(data):
            raise Misshapen("it is cut short")
        yield kind, view[at:end]
        if kind == b"IEND":
            return
        at = end
    raise Misshapen(f"it has more than {MAX_PARTS} chunks")


# --- JPEG --------------------------------------------------------------------------------


def _jpeg(data: bytes) -> Bare:
    kept: list[bytes | memoryview] = [JPEG_START]
    exif = b""
    for marker, segment in _segments(data):
        if marker not in _BESIDE:
            kept.append(segment)
        elif marker == _APP1 and segment[4:10] == _EXIF and not exif:
            exif = bytes(segment[4:])
    return Bare(b"".join(kept), exif)


def _segments(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Marker and all bytes of each segment; the first scan's has all scans, too."""
    view, at = memoryview(data), len(JPEG_START)
    for _ in range(MAX_PARTS):
        at = data.find(b"\xff", at)  # what lies between segments is passed over by all decoders
        marker, length = _unpacked(_SEGMENT, data, at) if at >= 0 else (0, 0)
        if marker == _START_OF_SCAN:
            end = _end_of_scans(data, at)
            _count_scans(data, at, end)
            yield marker, view[at:end]
            return
        if marker in _SEGMENTS:
            end = at + 2 + length
            yield marker, view[at:end]
            at = end
        elif marker == 0xFF or marker in _ALONE:
            at += 1
        else:
            raise Misshapen("it has no picture in it")
    raise Misshapen(f"it has more than {MAX_PARTS} segments")


def _end_of_scans(data: bytes, at: int) -> int:
    """Where the picture ends; phones put a video behind it. No scan's own bytes look like it."""
    end = data.find(_END_OF_IMAGE, at)
    return end + len(_END_OF_IMAGE) if end >= 0 else len(data)


def _count_scans(data: bytes, at: int, end: int) -> None:
    if data.count(bytes((0xFF, _START_OF_SCAN)), at, end) > MAX_SCANS:
        raise Misshapen(f"it has more than {MAX_SCANS} scans")


def _unpacked(form: struct.Struct, data: bytes, at: int) -> tuple[Any, ...]:
    if at + form.size > len(data):
        raise Misshapen("it is cut short")
    return form.unpack_from(data, at)
