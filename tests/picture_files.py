"""Picture files made by hand: sound ones that editors rarely write, and hostile ones.

A bomb is small and asks for much: pixels, memory or time. Reading one has to end soon, as a
picture or as an error of ours.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"
# first column and row, and distances between them, of the passes of an interlaced PNG
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_WHOLE = ((0, 0, 1, 1),)
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG, by its type of colour


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def header(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def solid(
    depth: int, colour: int, pixel: bytes, *, interlaced: bool = False, between: bytes = b""
) -> bytes:
    """A PNG of 8 × 8 pixels of one colour; for less than 8 bits, `pixel` is a byte of pixels."""
    rows = b""
    for left, top, right, down in _ADAM7 if interlaced else _WHOLE:
        width, height = len(range(left, 8, right)), len(range(top, 8, down))
        count = -(-width * depth * _CHANNELS[colour] // 8)
        rows += (b"\0" + (pixel * 64)[:count]) * height
    data = chunk(b"IDAT", zlib.compress(rows))
    start = PNG_START + header(8, 8, depth, colour, interlaced)
    return start + between + data + chunk(b"IEND")


def with_chunks(*chunks: bytes) -> bytes:
    """A sound PNG with these chunks before its pixels."""
    return solid(8, 2, b"\xff\0\0", between=b"".join(chunks))


def claiming(side: int) -> bytes:
    """A PNG of a few bytes that claims `side` × `side` pixels."""
    return PNG_START + header(side, side) + chunk(b"IDAT") + chunk(b"IEND")


def written(form: str, image: Image.Image | None = None, **how: Any) -> bytes:
    """A picture as Pillow writes it."""
    file = io.BytesIO()
    (image or Image.new("RGB", (8, 8), "red")).save(file, form, **how)
    return file.getvalue()


def segment(marker: int, data: bytes) -> bytes:
    """A JPEG's."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg_with(*segments: bytes) -> bytes:
    """A sound JPEG with these segments at its beginning."""
    sound = written("JPEG")
    return sound[:2] + b"".join(segments) + sound[2:]


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG that claims this size."""
    sound = bytearray(written("JPEG"))
    struct.pack_into(">HH", sound, sound.index(b"\xff\xc0") + 5, height, width)
    return bytes(sound)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP file."""
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_claiming(side: int) -> bytes:
    size = struct.pack("<I", side - 1)[:3]
    return riff((b"VP8X", b"\x02\0\0\0" + size + size), (b"ANIM", bytes(6)))


def exif(orientation: int, order: str = ">", kind: int = 3) -> bytes:
    """EXIF of nothing but which way is up."""
    start = b"MM\0*" if order == ">" else b"II*\0"
    value = struct.pack(f"{order}Hxx", orientation)
    row = struct.pack(f"{order}HHI", 0x0112, kind, 1) + value
    return b"Exif\0\0" + start + struct.pack(f"{order}IH", 8, 1) + row + bytes(4)


def _exif_bomb(size: int) -> bytes:
    """Thousands of rows, each of which claims nearly all of the bytes."""
    count = min(size // 12 - 2, 65535)
    rows = b"".join(struct.pack(">HHII", i, 7, size - 100, 8) for i in range(count))
    return (b"Exif\0\0MM\0*" + struct.pack(">IH", 8, count) + rows).ljust(size, b"\1")


def scans(count: int) -> bytes:
    """A progressive JPEG of 4096 × 4096 pixels whose last scan comes again and again."""
    sound = written("JPEG", Image.new("RGB", (4096, 4096), "red"), progressive=True)
    last = sound.rindex(b"\xff\xda")
    tables = sound.rindex(b"\xff\xc4", 0, last)
    return sound[:-2] + sound[tables:-2] * count + sound[-2:]


def _animated(form: str, frames: int) -> bytes:
    images = [Image.new("RGB", (4, 4), (i % 256, i // 256, 0)) for i in range(frames)]
    return written(form, images[0], save_all=True, append_images=images[1:])


_MILLION = zlib.compress(bytes(2**20), 9)
_HUGE = zlib.compress(bytes(2**28), 9)
_PADDING = b"\xff" * (2 * 10**7)
BOMBS: dict[str, Callable[[], bytes]] = {
    "a PNG that claims pixels": lambda: claiming(50_000),
    "a PNG that claims a few too many": lambda: claiming(4097),
    "a JPEG that claims pixels": lambda: jpeg_of(65_500, 65_500),
    "a WebP that claims pixels": lambda: webp_claiming(16_384),
    "a WebP that claims a few too many": lambda: webp_claiming(9_000),
    "a text that unpacks to 256 MB": lambda: with_chunks(chunk(b"zTXt", b"a\0\0" + _HUGE)),
    "texts that unpack to 1 GB": lambda: with_chunks(
        *(chunk(b"zTXt", b"a%d\0\0" % i + _MILLION) for i in range(1000))
    ),
    "international texts": lambda: with_chunks(
        *(chunk(b"iTXt", b"a%d\0\1\0\0\0" % i + _MILLION) for i in range(1000))
    ),
    "a colour profile that unpacks to 256 MB": lambda: with_chunks(
        chunk(b"iCCP", b"a\0\0" + _HUGE)
    ),
    "a PNG of a million chunks": lambda: with_chunks(chunk(b"prVt") * 10**6),
    "an APNG of many frames": lambda: with_chunks(
        chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
        *(chunk(b"fcTL", struct.pack(">IIIIIHHBB", i, 8, 8, 0, 0, 1, 1, 0, 0)) for i in range(9)),
    ),
    "an APNG of too many frames": lambda: with_chunks(chunk(b"acTL", b"\xff" * 8)),
    "an APNG": lambda: _animated("PNG", 300),
    "a WebP of many frames": lambda: _animated("WEBP", 300),
    "EXIF that claims itself in each row": lambda: jpeg_with(segment(0xE1, _exif_bomb(65_533))),
    "EXIF of many segments": lambda: jpeg_with(
        *(segment(0xE1, b"Exif\0\0" + _exif_bomb(65_000)) for _ in range(100))
    ),
    "EXIF of 5 MB in a PNG": lambda: with_chunks(chunk(b"eXIf", _exif_bomb(5 * 2**20)[6:])),
    "a broken index of further pictures": lambda: jpeg_with(
        segment(0xE2, b"MPF\0MM\0*" + b"\xff" * 99)
    ),
    "a JPEG of a million segments": lambda: jpeg_with(segment(0xE5, b"") * 10**6),
    "a JPEG that is filled up": lambda: jpeg_with(_PADDING),
    "a JPEG of 2,000 scans": lambda: scans(2_000),
}
