"""What is fuzzed: one function for each way in which bytes of others come in.

A target takes any bytes and returns; whatever it raises is a finding. Each says which errors its
entrance may raise, and checks of what comes out what the rest of the program relies on.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import itertools
import json
import math
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import hostile
import odd_files
from PIL import Image

from runai import settings
from runai.client.link import Link
from runai.engine import detection, images, pickles, small_files
from runai.engine.prompting import Fragment, Line, parse, read
from runai.engine.prompting.words import Word, Words
from runai.errors import (
    InvalidField,
    InvalidImage,
    InvalidSetting,
    LimitError,
    ModelBroken,
    ModelError,
    ModelUnsafe,
    RunAIError,
    TooManyPixels,
)
from runai.schema import codec
from runai.schema.dialects import Reply, native, reply_to, understand
from runai.schema.events import Canceled, ErrorBody, Failed, Progress
from runai.schema.limits import Limits
from runai.schema.requests import Generate, PromptDialect, TextToImage
from runai.settings import ROWS, is_loopback
from runai.streams.plain import PlainStream
from runai.wire.connection import Connection, Role, WireEvent
from runai.wire.packets import encode
from tests.fuzz import packets
from tests.fuzz.asked import KEYS, SAID, SAID_KEYS, SOUND, VALUES

Target = Callable[[bytes], None]
PATIENCE_S = 10.0
SMALL = Limits(max_input_pixels=256 * 256)
DIALECTS: tuple[PromptDialect, ...] = get_args(PromptDialect)


# --- the wire ----------------------------------------------------------------------------


def wire(data: bytes) -> None:
    """Any bytes in any cuts are the events that the naive decoder finds; little is kept."""
    head, stream = data[:4].ljust(4, b"\0"), data[4:]
    size, most = 1 + head[0] % 24, head[1]
    role = (Role.SERVER, Role.CLIENT)[head[2] % 2]
    connection = Connection(role, size, most)
    events: list[WireEvent] = []
    for piece in _pieces(stream, head[3]):
        connection.receive_data(piece)
        events += _drained(connection)
        assert len(connection._buffer) <= most + 3 * size
    connection.receive_eof()
    events += _drained(connection)
    controls = role is Role.SERVER
    assert events == packets.events_of(stream, size, most, controls=controls)


def _pieces(stream: bytes, salt: int) -> Iterator[bytes]:
    """The stream, cut in lengths that the salt and the bytes themselves give."""
    at = 0
    while at < len(stream):
        length = 1 + (salt * 31 + stream[at] + at) % (salt + 1)
        yield stream[at : at + length]
        at += length


def _drained(connection: Connection) -> Iterator[WireEvent]:
    while (event := connection.next_event()) is not None:
        yield event


# --- messages ----------------------------------------------------------------------------


def messages(data: bytes) -> None:
    """A body is a command or an error of ours, and either can be answered to."""
    message: dict[str, Any] = {}
    reply: Reply = native.REPLY
    try:
        message = codec.decode(data)
        reply = reply_to(message)
        spoken = understand(message)
    except RunAIError as error:
        failed = Failed(id=codec.id_of(message), error=ErrorBody.of(error))
        _check_answers(reply.render(failed))
        return
    if isinstance(spoken.command, Generate):
        _check_request(spoken.command, spoken.reply)
    written = codec.encode(spoken.command)
    assert codec.parse_command(codec.decode(written)) == spoken.command


def _check_request(request: Any, reply: Reply) -> None:
    with contextlib.suppress(LimitError):
        Limits().check(request)
    for event in (Progress(id=request.id, step=1, total=2), Canceled(id=request.id)):
        _check_answers(reply.render(event))


def _check_answers(bodies: list[bytes]) -> None:
    for body in bodies:
        encode(body, 1024)
        said = codec.decode(body)
        if "type" in said:
            codec.parse_event(said)


def krita(data: bytes) -> None:
    """The plugin's options, whatever stands in them."""
    with contextlib.suppress(UnicodeDecodeError):
        options = data.decode()
        messages(b'{"action":"img2img","options":{%b}}' % options.encode())


def fields(data: bytes) -> None:
    """Messages of sound form, some of whose fields hold what they should not."""
    messages(json.dumps(_changed(SOUND, "options", KEYS, data)).encode("ascii"))


def _changed(sound: Sequence[Any], nest: str, keys: Sequence[str], data: bytes) -> dict[str, Any]:
    """The message that the first byte chooses, changed in the places that the others choose."""
    message: dict[str, Any] = copy.deepcopy(sound[data[0] % len(sound)]) if data else {}
    for where, key, value in zip(data[1::3], data[2::3], data[3::3], strict=False):
        inner = message.get(nest, message) if where % 8 else message
        if isinstance(inner, dict):
            inner[keys[key % len(keys)]] = copy.deepcopy(VALUES[value % len(VALUES)])
    return message


# --- pictures ----------------------------------------------------------------------------


def pictures(data: bytes) -> None:
    """A file's bytes are a picture that every task can go on with, or refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = images.size(data)
        try:
            picture = images.read(data, "image", SMALL)
        except (InvalidImage, TooManyPixels) as error:
            _check_answers([codec.encode(Failed(error=ErrorBody.of(error)))])
            return
        assert told in (picture.size, picture.size[::-1])
        assert math.prod(picture.size) <= SMALL.max_input_pixels
        opaque, mask = images.opaque(picture), images.mask_from(picture)
        assert (opaque.mode, opaque.size) == ("RGB", picture.size)
        assert (mask.mode, mask.size) == ("L", picture.size)
        with contextlib.suppress(InvalidImage):
            assert images.mask_of_empty(picture).size == picture.size


# --- prompts -----------------------------------------------------------------------------


def prompts(data: bytes) -> None:
    """A text means something in each dialect, or is refused; what it means is sound."""
    steps, text = 1 + (data[0] if data else 0) % 50, data[1:].decode(errors="ignore")[:20_000]
    for dialect in DIALECTS:
        with contextlib.suppress(InvalidField):
            _check_script(parse(text, dialect, steps), steps)
    for stated in (None, *DIALECTS):
        with contextlib.suppress(InvalidField):
            _check_reading(TextToImage(id="a", prompt=text, prompt_dialect=stated))
    names = Words(["a", "bad-hands-5", "<cat-toy>", *text.lower().split()[:3]])
    pieces = [piece.written if isinstance(piece, Word) else piece for piece in names.split(text)]
    assert "".join(pieces) == text


def _check_script(script: Any, steps: int) -> None:
    firsts = [first for first, _ in script]
    assert firsts == sorted(set(firsts)) and firsts[0] == 0 and firsts[-1] < steps
    for part in itertools.chain.from_iterable(composition for _, composition in script):
        assert len(part.lines) == len(part.shares)
        assert all(map(math.isfinite, (part.weight, *part.shares)))
        for line in part.lines:
            _check_line(line)


def _check_line(line: Line) -> None:
    for piece in line:
        if isinstance(piece, Fragment) and piece.text.strip():
            assert math.isfinite(piece.weight)


def _check_reading(request: TextToImage) -> None:
    """What was read, stated as a request, is read the same again."""
    found = read(request)
    stated = {
        "prompt": found.prompt,
        "negative_prompt": found.negative,
        "prompt_dialect": found.dialect,
        "loras": list(found.loras),
    }
    again = read(request.model_copy(update=stated))
    assert (again.prompt, again.dialect, again.loras) == (found.prompt, found.dialect, found.loras)


def texts(data: bytes) -> None:
    """What a picture says of itself can be read back, whatever was asked for."""
    text = data.decode(errors="ignore")
    said = {
        "prompt": text, "negative_prompt": text[::-1], "num_inference_steps": 1, "sampler": "x",
        "guidance_scale": 1.0, "seed": 1, "width": 8, "height": 8, "model": text[:9],
        "loras": [{"name": text, "weight": 1.0}],
    }  # fmt: skip
    png = images.write_png(Image.new("RGB", (1, 1)), said)
    with Image.open(io.BytesIO(png)) as picture:
        assert json.loads(picture.text["runai"]) == said  # type: ignore[attr-defined]
    images.read(png, "image", SMALL)


# --- models ------------------------------------------------------------------------------


def model_files(data: bytes) -> None:
    """Any file in a model folder is known for what it is, or refused."""
    _check_model(lambda path: path.write_bytes(data))


def safetensors(data: bytes) -> None:
    """The same, of any header."""
    _check_model(lambda path: odd_files.raw_safetensors(path, data))


def checkpoints(data: bytes) -> None:
    """The same, of any pickle in one of torch's files."""
    _check_model(lambda path: hostile.archive(path, data, odd_files.BYTES))


def _check_model(write: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.pt")
        write(path)
        found = detection.identify(path)
        assert bool(found.kind) != bool(found.reason) and len(found.reason) <= 200
        json.dumps([found.metadata, found.trigger_words], ensure_ascii=False).encode()
        with contextlib.suppress(ModelBroken, ModelUnsafe):
            pickles.nested(pickles.read(path))
        with contextlib.suppress(ModelError):
            rows, _ = small_files.index(path)
            small_files.read(rows)


# --- the client --------------------------------------------------------------------------


def server(data: bytes) -> None:
    """Whatever a server sends, a client's request ends, and its threads too."""
    faults: list[threading.ExceptHookArgs] = []
    threading.excepthook, before = faults.append, threading.excepthook
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_S)
    try:
        link = Link(PlainStream(ours), 16)
        answers = link.submit(TextToImage(id="a"), link.cancel)
        with theirs, contextlib.suppress(OSError):
            theirs.sendall(data)
        with contextlib.suppress(RunAIError):
            for event in answers:
                codec.encode(event)
        link.close()
    finally:
        threading.excepthook = before
    assert not faults, faults[0].exc_value


def events(data: bytes) -> None:
    """The same, of any body."""
    body = base64.b64encode(data) if b"\0" in data else data
    with contextlib.suppress(ValueError):
        server(encode(body, 16))


def answers(data: bytes) -> None:
    """The same, of messages of sound form, some of whose fields hold what they should not."""
    message = _changed(SAID, ("error", "parameters")[len(data) % 2], SAID_KEYS, data)
    server(encode(json.dumps(message).encode("ascii"), 16))


# --- settings ----------------------------------------------------------------------------


def toml(data: bytes) -> None:
    """A settings file is settings, or refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "runai.toml")
        path.write_bytes(data)
        with contextlib.suppress(InvalidSetting):
            _check_settings(settings.load({}, {}, config=path))


def flags(data: bytes) -> None:
    """So is any text given for any setting."""
    name = list(ROWS)[data[0] % len(ROWS)] if data else "host"
    text = data[1:].decode(errors="surrogateescape")
    for more in ({}, {"insecure": True}):
        with contextlib.suppress(InvalidSetting):
            _check_settings(settings.load({**more, name: text}, {"XDG_CONFIG_HOME": "/nowhere"}))


def _check_settings(found: settings.Settings) -> None:
    import ipaddress

    assert found.host.isprintable()
    if is_loopback(found.host):
        assert found.host == "localhost" or ipaddress.ip_address(found.host).is_loopback
    for name, row in ROWS.items():
        value = getattr(found, name)
        assert value is None or row.kind.read(settings.as_text(value)) == value


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        wire, messages, krita, fields, pictures, prompts, texts, model_files, safetensors,
        checkpoints, server, events, answers, toml, flags,
    )
}  # fmt: skip
