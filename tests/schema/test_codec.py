"""Bodies become messages and messages become types, or errors that name what is wrong."""

from __future__ import annotations

import json
import time
from typing import Any, get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from pydantic import BaseModel

from runai.errors import InvalidField, InvalidJSON, RequestError, TooDeep, UnknownAction
from runai.schema import codec
from runai.schema.events import (
    Accepted,
    Canceled,
    Capabilities,
    Completed,
    Converted,
    ErrorBody,
    Event,
    Failed,
    HelloEvent,
    Loading,
    ModelInfo,
    Models,
    Parameters,
    Picture,
    Preview,
    Progress,
    Status,
)
from runai.schema.requests import (
    Cancel,
    Convert,
    GetStatus,
    Hello,
    ListModels,
    Outpaint,
    TextToImage,
)
from tests.schema.asked import PNG, generate

DATA_URI = f"data:image/png;base64,{PNG}"
CONVERT = Convert(id="a", model="m", form="ckpt")
PARAMETERS = Parameters(
    task="txt2img",
    model="m",
    prompt="ein Kreis in Grün",
    negative_prompt="",
    num_inference_steps=20,
    guidance_scale=7.5,
    sampler="euler",
    eta=0.0,
    seed=4294967295,
    num_images=1,
    width=512,
    height=512,
)
EVENTS: list[Any] = [
    HelloEvent(
        server_version="1",
        protocol=1,
        state="ready",
        capabilities=Capabilities(
            tasks=["txt2img"],
            samplers=["euler"],
            max_message_bytes=1,
            max_json_depth=6,
            max_input_pixels=5,
            max_pixels=2,
            max_steps=3,
            max_images=4,
        ),
    ),
    Accepted(id="a", position=0),
    Loading(id="a", model="m"),
    Progress(id="a", step=1, total=2, seconds_left=0.5),
    Preview(id="a", index=0, step=1, png=b"\x89PNG\x00"),
    Completed(id="a", images=[Picture(png=b"\xff\x00", seed=7)], parameters=PARAMETERS),
    Failed(error=ErrorBody(code="limit", message="m", hint="h")),
    Canceled(id="a"),
    Converted(id="a", path="/models/v1/a.safetensors"),
    Models(models=[ModelInfo(name="m", version="v1", format="ckpt")]),
    Status(state="ready", clients=1, queued=0, running=0, loaded_models=[], uptime_s=1.5),
]
EVENT_CLASSES = get_args(get_args(Event)[0])


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_an_event_is_the_same_after_the_wire(event: BaseModel) -> None:
    assert codec.parse_event(codec.decode(codec.encode(event))) == event


def test_every_kind_of_event_is_tried_above() -> None:
    assert {type(event) for event in EVENTS} == set(EVENT_CLASSES)


@pytest.mark.parametrize("cls", EVENT_CLASSES, ids=lambda cls: cls.__name__)
def test_no_event_has_a_key_that_the_plugin_would_act_upon(cls: type[BaseModel]) -> None:
    assert not {"image", "versions", "action"} & set(cls.model_fields)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"type": "hello"}, Hello(protocol=1)),
        ({"type": "hello", "observer": True, "client": "c"}, Hello(observer=True, client="c")),
        ({"type": "cancel", "id": "a"}, Cancel(id="a")),
        ({"type": "convert", "id": "a", "model": "m", "form": "ckpt"}, CONVERT),
        ({"type": "models"}, ListModels()),
        ({"type": "status"}, GetStatus()),
        (generate(), TextToImage(id="a")),
        (generate(guidance_scale=7), TextToImage(id="a", guidance_scale=7.0)),
        (generate(seed=2**63 - 1), TextToImage(id="a", seed=2**63 - 1)),
        (generate(task="outpaint", image=PNG), Outpaint(id="a", image=b"\x89PNG")),
        (generate(task="outpaint", image=DATA_URI), Outpaint(id="a", image=b"\x89PNG")),
        (generate(sampler="DPM++ 2M Karras"), TextToImage(id="a", sampler="dpmpp_2m_karras")),
    ],
)
def test_a_message_becomes_the_command_it_means(message: dict[str, Any], expected: object) -> None:
    assert codec.parse_command(message) == expected


def test_a_command_that_leaves_out_its_defaults_is_the_same_after_the_wire() -> None:
    request = TextToImage(id="a", prompt="ein Kreis", seed=3)
    assert codec.parse_command(codec.decode(codec.encode(request))) == request


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"a": 1} {"b": 2}',
        b"\xff\xfe\xff",
        b"[" * 32,
        b'"',
        b'{"n": ' + b"1" * 101 + b"}",
        b'{"n": 1, "n": 1}',
        b'{"options": {"mask": "", "mask": ""}}',
        b'{"id": "\xed\xa0\x80"}',
        '{"type": "status"}'.encode("utf-16"),
        '{"type": "status"}'.encode("utf-16-be"),
        '{"type": "status"}'.encode("utf-32"),
        b"[]",
        b"3",
        b'"text"',
        b"null",
        b"true",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJSON):
        codec.decode(body)


def test_ascii_and_utf8_bodies_are_read_alike() -> None:
    message = {"prompt": "Grün 🟢"}
    plain = json.dumps(message).encode("ascii")
    assert codec.decode(plain) == codec.decode(json.dumps(message, ensure_ascii=False).encode())


def test_a_byte_order_mark_is_passed_over() -> None:
    assert codec.decode(b'\xef\xbb\xbf{"type": "status"}') == {"type": "status"}


def test_a_number_has_as_many_digits_as_are_allowed_at_most() -> None:
    longest = 10**codec.MAX_DIGITS - 1
    assert codec.decode(b'{"n": %d}' % longest) == {"n": longest}
    with pytest.raises(InvalidJSON, match=f"{codec.MAX_DIGITS + 1} digits"):
        codec.decode(b'{"n": %d}' % (longest + 1))


def nested(depth: int) -> bytes:
    """Objects and lists within each other, and brackets in texts, which do not count."""
    pairs = [(b'{"\\"[\\\\":', b"}"), (b"[", b"]")] * depth
    opened, closed = zip(*pairs[:depth], strict=True)
    return b"".join(opened) + b'"}]{[\\\\"' + b"".join(reversed(closed))


@pytest.mark.parametrize("depth", [1, 7, 8])
def test_a_message_may_be_nested_as_deeply_as_the_server_allows(depth: int) -> None:
    assert codec.decode(nested(depth), 8) == json.loads(nested(depth))
    assert codec.decode(nested(32)) == json.loads(nested(32))


@pytest.mark.parametrize("body", [nested(9), b"[" * 9, b"}" + b'{"a":' * 20, b"[" * 100_000])
def test_a_message_nested_more_deeply_is_refused_with_the_limit(body: bytes) -> None:
    with pytest.raises(TooDeep, match=r"at most 8 .*--max-json-depth"):
        codec.decode(body, 8)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400 + ".0"])
@pytest.mark.parametrize(
    "field", ["guidance_scale", "image_guidance_scale", "eta", "seed", "width", "num_images"]
)
def test_a_number_that_is_none_is_refused_by_its_field(field: str, number: str) -> None:
    body = b'{"type":"generate","task":"txt2img","id":"a","%b":%b}'
    with pytest.raises(InvalidField) as caught:
        codec.parse_command(codec.decode(body % (field.encode(), number.encode())))
    assert caught.value.field == field


@pytest.mark.parametrize("filler", [b'"', b'\\"', b"\\\\", b'""', b"\\", b":", b'"a'])
def test_the_depth_of_a_large_body_is_found_quickly(filler: bytes) -> None:
    body = b'{"a":' * 40 + filler * (2**25 // len(filler))
    start = time.thread_time()
    with pytest.raises((TooDeep, InvalidJSON)):  # too many values may be noticed first
        codec.decode(body)
    assert time.thread_time() - start < 5  # on a busy machine; 0.5 s is usual


WRONG: list[tuple[dict[str, Any], str]] = [
    (generate(width=65), "width"),
    (generate(width="512"), "width"),
    (generate(width=True), "width"),
    (generate(width=0, height=0), "width"),
    (generate(height=100_000), "height"),
    (generate(num_inference_steps=0), "num_inference_steps"),
    (generate(num_inference_steps=20.0), "num_inference_steps"),
    (generate(guidance_scale=float("nan")), "guidance_scale"),
    (generate(guidance_scale=float("inf")), "guidance_scale"),
    (generate(guidance_scale="7.5"), "guidance_scale"),
    (generate(eta=1.5), "eta"),
    (generate(seed=-1), "seed"),
    (generate(seed=2**63), "seed"),
    (generate(sampler="magic"), "sampler"),
    (generate(sampler=3), "sampler"),
    (generate(num_images=0), "num_images"),
    (generate(prompt=None), "prompt"),
    (generate(prompt="x" * 20_001), "prompt"),
    (generate(prompt="\ud800"), "prompt"),
    (generate(preview="yes"), "preview"),
    (generate(model_version="v3"), "model_version"),
    (generate(unknown=1), "unknown"),
    (generate(strength=0.5), "strength"),
    (generate(id=""), "id"),
    (generate(id=7), "id"),
    (generate(id="x" * 129), "id"),
    ({"type": "generate", "task": "txt2img"}, "id"),
    ({"type": "generate", "id": "a"}, "task"),
    (generate(task="draw"), "task"),
    (generate(task=None), "task"),
    (generate(task="img2img"), "image"),
    (generate(task="img2img", image=None), "image"),
    (generate(task="img2img", image=""), "image"),
    (generate(task="img2img", image="%%%"), "image"),
    (generate(task="img2img", image="Grün"), "image"),
    (generate(task="img2img", image=3), "image"),
    (generate(task="img2img", image=PNG, strength=1.01), "strength"),
    (generate(task="inpaint", image=PNG), "mask_image"),
    (generate(task="inpaint", image=PNG, mask_image=None), "mask_image"),
    (generate(task="outpaint", image=PNG, mask_image=[]), "mask_image"),
    ({"type": "cancel"}, "id"),
    ({"type": "hello", "protocol": 0}, "protocol"),
    ({"type": "hello", "observer": 1}, "observer"),
]


@pytest.mark.parametrize(("message", "field"), WRONG, ids=lambda part: str(part)[-60:])
def test_a_wrong_field_is_named(message: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        codec.parse_command(message)
    assert caught.value.field == field
    assert caught.value.message.endswith(".")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (generate(width=65), ["multiple of 8", "65"]),
        (generate(num_inference_steps=0), ["greater than or equal to 1", "0"]),
        (generate(sampler="magic"), ["'magic'", "euler_a", "unipc"]),
        (generate(task="draw"), ["'draw'", "'img2img'"]),
        (generate(task="img2img", image="%%%"), ["not base64", "'%%%'"]),
    ],
    ids=lambda part: str(part)[-40:],
)
def test_an_error_says_what_came_and_what_is_allowed(
    message: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InvalidField) as caught:
        codec.parse_command(message)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("kind", [None, 4, [], {}, "", "generat", "x" * 10_000])
def test_an_unknown_type_is_refused_with_the_known_ones(kind: object) -> None:
    with pytest.raises(UnknownAction) as caught:
        codec.parse_command({"type": kind})
    assert caught.value.field == "type"
    assert "generate" in caught.value.hint
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("field", ["x" * 10_000, "\ud800", "Grün", "a.b"])
def test_an_error_about_a_strange_key_can_itself_be_sent(field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        codec.parse_command(generate(**{field: 1}))
    body = codec.encode(Failed(id="a", error=ErrorBody.of(caught.value)))
    assert len(body) < 1000


def test_a_long_value_is_shown_in_short() -> None:
    with pytest.raises(InvalidField) as caught:
        codec.parse_command(generate(task="img2img", image="%" * 10_000_000))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("message", "id_"),
    [
        ({"id": "a"}, "a"),
        ({}, None),
        ({"id": 7}, None),
        ({"id": ""}, None),
        ({"id": "\ud800"}, None),
        ({"id": "x" * 129}, None),
    ],
    ids=lambda part: repr(part)[:20],
)
def test_only_an_id_that_can_be_answered_to_is_one(
    message: dict[str, Any], id_: str | None
) -> None:
    assert codec.id_of(message) == id_


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({}, "type"),
        ({"type": "sing"}, "type"),
        ({"type": "progress", "id": "a", "step": 1}, "total"),
        ({"type": "models", "models": [{"name": 3}]}, "models.0.name"),
    ],
)
def test_a_client_is_told_what_is_wrong_with_an_event(message: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        codec.parse_event(message)
    assert caught.value.field == field


keys = st.sampled_from(["id", "task", "width", "image", "seed", "sampler", "options", "action"])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
values = leaves | st.lists(leaves, max_size=2) | st.dictionaries(keys, leaves, max_size=2)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    kind=st.sampled_from(["hello", "cancel", "generate", "models", "status"]),
    message=st.dictionaries(keys | st.text(max_size=3), values, max_size=4),
)
def test_whatever_a_message_holds_it_is_a_command_or_a_request_error(
    kind: str, message: dict[str, Any]
) -> None:
    try:
        command = codec.parse_command({**message, "type": kind})
    except RequestError as error:
        codec.encode(Failed(error=ErrorBody.of(error)))
    else:
        assert command.type == kind


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b"[]," * 60_000 + b"[]]}",
        b'{"a":"' + b"\\\\" + b'",' + b"," * 100_001 + b'"}',
        b'{"a":"' + b'\\"' * 400_001 + b'"}',
    ],
    ids=lambda body: repr(body[:9]),
)
def test_a_message_of_very_many_values_is_not_parsed(body: bytes) -> None:
    with pytest.raises(InvalidJSON, match="values"):
        codec.decode(body)


def test_what_stands_in_a_text_is_no_value() -> None:
    text = '[{,]}\\"' * 50_000
    assert codec.decode(json.dumps({"a": text, text[:9]: [text]}).encode())["a"] == text


def test_a_message_of_very_many_fields_is_refused_shortly() -> None:
    with pytest.raises(InvalidField) as caught:
        codec.parse_command({"type": "status", **{f"k{i}": 1 for i in range(1000)}})
    assert len(str(caught.value)) < 300


def test_a_long_sampler_name_is_not_echoed_whole() -> None:
    with pytest.raises(InvalidField) as caught:
        codec.parse_task({"task": "txt2img", "id": "a", "sampler": "z" * 100_000})
    assert len(str(caught.value)) < 1000
