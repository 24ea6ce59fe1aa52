"""Writes the inputs that fuzzing begins with into corpus/: `python tests/fuzz/run.py --seeds`.

They are examples of what each entrance is for, and of what has been thought of against it.
Inputs that once broke something lie beside them, named `crash-…`, and are not made here.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hostile
import odd_files
import picture_files
from PIL import Image

from runai.engine.pickles.forms import LEGACY_MAGIC
from runai.schema.conversation import conversation
from runai.wire.packets import encode
from tests.fuzz.asked import SAID, SOUND

CORPUS = Path(__file__).parent / "corpus"
PIXEL = base64.b64encode(picture_files.written("PNG", Image.new("RGBA", (1, 1)))).decode()
PROMPTS = (
    "a red circle",
    "a (red:1.3) ((circle)) [faint] \\(not this\\) BREAK second",
    "[cat:dog:0.5] [a|b|[c:d:3]] [x:4] [y::2.5] (a:1,5)",
    "<lora:outline:0.8> a <lora<lora:b:1>:c:2> <lyco:x:te=0.5:unet=1>",
    '("one (two)1.3", "three++ four--").blend(0.7, -.3, no_normalize)',
    '("a", "b").and() withLora(outline, 0.8) c.swap(d)',
    "a AND b \\ c ((((((" + ")" * 5,
    "bad-hands-5, <cat-toy> İstanbul ß " + "(" * 300,
)
OPTIONS: dict[str, Any] = {
    "img2img_prompt": "a", "img2img_steps": "20", "img2img_scale": "7.5", "img2img_seed": 1.0,
    "img2img_width": "512", "img2img_n_samples": 2, "img2img_n_iter": "1", "pixels": PIXEL,
    "do_nsfw_filter": "true", "version": "v2 (community)", "model_base_path": "/m",
    "img2img_model": "/m/v1/x.ckpt", "img2img_strength": ".5", "pos_x": 1, "pos_y": "-3",
}  # fmt: skip
TOML = b"""port = 0
host = "::1"
max_steps = 10
grace_s = 1.5
keep_alive = true
device = "cuda:1"
model_base_path = "/tmp:/"
"""


def _lines(arrow: str) -> list[bytes]:
    said = [line[2:] for line in conversation().splitlines() if line.startswith(arrow)]
    return [line.replace("iVBORw0KGgo…", PIXEL).encode() for line in said]


def wire() -> Iterator[bytes]:
    for head in (b"\x07\x20\0\x05", b"\x0f\xff\0\x01", b"\0\x05\0\xff", b"\x03\x10\1\x03"):
        size = 1 + head[0] % 24
        bodies = (b"", b"{}", b"y" * (size + 1), b"a" * 40, b"{" * size)
        whole = b"".join(encode(body, size) for body in bodies)
        yield head + b"c" * size + whole + b"c" * size + b"x" * size
        yield head + whole[: -size - 1]
        yield head + b"ab\0cd" * 30 + bytes(2 * size)


def messages() -> Iterator[bytes]:
    yield from _lines("→")
    fields = {"type": "generate", "id": "a", "image": PIXEL, "strength": 0.5}
    for task in ("img2img", "inpaint", "outpaint", "upscale"):
        yield json.dumps({**fields, "task": task, "mask_image": PIXEL}).encode()
    more = {"prompt": {"subject": ["a", "b"]}, "loras": [{"name": "x", "weight": 2}], "seed": None}
    yield json.dumps({"type": "generate", "task": "txt2img", "id": "a", **more}).encode()
    yield json.dumps({"type": "convert", "id": "a", "model": "m", "form": "ckpt"}).encode()
    yield json.dumps({"type": "hello", "observer": True}).encode()
    for action in ("txt2img", "outpaint", "update", "convert"):
        options = {key.replace("img2img", action): value for key, value in OPTIONS.items()}
        yield json.dumps({"action": action, "options": {**options, "mask": PIXEL}}).encode()
    yield b'{"type":"status","type":"models","n":' + b"[" * 31 + b"1e999" + b"]" * 31 + b"}"
    yield b'\xef\xbb\xbf{"type":"cancel","id":"\\ud800","x":NaN}'


def krita() -> Iterator[bytes]:
    yield json.dumps(OPTIONS).encode()[1:-1]
    yield b'"img2img_seed":"' + b"9" * 50 + b'","img2img_steps":Infinity,"pos_x":-Infinity'
    yield b'"version":"v3","do_watermark":[],"img2img_scale":"nan"'


def fields() -> Iterator[bytes]:
    for number in range(len(SOUND)):
        yield bytes([number])
        yield bytes([number, *range(1, 40)])


def pictures() -> Iterator[bytes]:
    small = Image.linear_gradient("L").resize((16, 8))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield picture_files.written("PNG", small.convert("L").convert(mode))
    for colour in (2, 3, 6):
        between = picture_files.chunk(b"PLTE", bytes(range(9))) if colour == 3 else b""
        yield picture_files.solid(8, colour, b"\1\2\3\4", interlaced=True, between=between)
    yield picture_files.with_chunks(
        picture_files.chunk(b"tRNS", bytes(6)),
        picture_files.chunk(b"eXIf", picture_files.exif(6)[6:]),
    )
    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            yield picture_files.written("JPEG", small.convert(mode), progressive=progressive)
    yield picture_files.jpeg_with(picture_files.segment(0xE1, picture_files.exif(5, "<")))
    for how in ({}, {"lossless": True}, {"exif": picture_files.exif(8)[6:]}):
        yield picture_files.written("WEBP", small.convert("RGBA"), **how)
    yield picture_files.webp_claiming(300)


def prompts() -> Iterator[bytes]:
    for number, prompt in enumerate(PROMPTS):
        yield bytes([number * 7]) + prompt.encode()


def texts() -> Iterator[bytes]:
    yield from (prompt.encode() for prompt in PROMPTS)
    yield b"a\0b\r\n\x7f\xc2\x80\xef\xbf\xbf"


def safetensors() -> Iterator[bytes]:
    row = odd_files.row
    tables: tuple[Mapping[str, Any], ...] = (
        {"emb_params": row([2, 8], 0, 64)},
        {"lora_unet_x.lora_down.weight": row([4, 4], 0, 64), "__metadata__": {"ss_steps": "9"}},
        {"a": row([4], 0, 16), "b": row([6, 2], 16, 64), "__metadata__": {"modelspec.title": "é"}},
        {"model.diffusion_model.input_blocks.0.0.weight": row([1, 4, 2, 2], 0, 64)},
        {"first_stage_model.decoder.conv_in.weight": row([4, 4, 1, 1], 0, 64)},
        {"a": row([32], 0, 64, "F16"), "__metadata__": {"ss_tag_frequency": '{"a":{"b":2}}'}},
    )
    yield from (json.dumps(table).encode() for table in tables)


def model_files() -> Iterator[bytes]:
    yield from (len(one).to_bytes(8, "little") + one + odd_files.BYTES for one in safetensors())
    yield from (b"", b"<html>", b"GGUF", b"\x80\x02}.")
    # torch's two forms, which it would write with other addresses and times in them each time
    content = next(checkpoints())
    start = b"".join(pickle.dumps(value, 2) for value in (LEGACY_MAGIC, 1001, {}))
    yield start + content + pickle.dumps(["0"], 2) + struct.pack("<q", 16) + odd_files.BYTES
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr(zipfile.ZipInfo("archive/data.pkl"), content)
        made.writestr(zipfile.ZipInfo("archive/data/0"), odd_files.BYTES)
    yield archive.getvalue()


def checkpoints() -> Iterator[bytes]:
    tensor = odd_files.tensor((4, 4), (4, 1))
    names = (b"state_dict", b"emb_params", b"x")
    for name in names:
        yield odd_files.PROTO + b"}" + odd_files.text(name.decode()) + tensor + b"s."
    yield odd_files.PROTO + b"}" + odd_files.text("string_to_param") + b"}" + b"s."
    yield from hostile.OPCODES.values()


def events() -> Iterator[bytes]:
    yield from _lines("←")


def answers() -> Iterator[bytes]:
    for number in range(len(SAID)):
        yield bytes([number])
        yield bytes([number, *range(1, 13)])


def server() -> Iterator[bytes]:
    yield b"".join(encode(line, 16) for line in _lines("←")[1:4])
    yield encode(b'{"type":"failed","error":{"code":"x","message":"m","hint":"h"}}', 16)


def toml() -> Iterator[bytes]:
    yield TOML
    yield b'model_base_path = "~nobody-here/x"\nhost = "a\\u0000b"\ninsecure = 1\n'
    yield b"port = " + b"[" * 40 + b"]" * 40


def flags() -> Iterator[bytes]:
    for text in ("localhost", "[::1]", "127.0.0.1", "https://0.0.0.0/", "127.٠.٠.١", "cuda:1", "7"):
        yield from (bytes([number]) + text.encode() for number in (0, 1, 4))


MAKERS = (
    wire, messages, krita, fields, pictures, prompts, texts, model_files, safetensors, checkpoints,
    server, events, answers, toml, flags,
)  # fmt: skip


def write() -> None:
    """All of them, each under a number."""
    for maker in MAKERS:
        folder = CORPUS / maker.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(maker()):
            (folder / f"{number:02}").write_bytes(data)
