"""Bodies to messages to types, and back: the native protocol's reader and writer.

`decode` gives the JSON object of a body, `parse_command` and `parse_event` the typed message,
`encode` the bytes. A validation error of pydantic is turned into one of ours here, naming the
first wrong field, what came and what is allowed.

A body is UTF-8, of which ASCII is a part; a byte order mark is passed over. Each key may stand
in an object once, and a number has at most MAX_DIGITS characters. How many values there are, and
how deeply they are nested, is looked at before anything is parsed. What Python writes beyond
JSON (NaN, Infinity, half a surrogate pair) is read, and refused by the field that it is meant for.
"""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from itertools import accumulate
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from runai.errors import (
    InvalidField,
    InvalidJSON,
    RequestError,
    RunAIError,
    TooDeep,
    UnknownAction,
)
from runai.schema.events import Event
from runai.schema.fields import RequestId
from runai.schema.limits import Limits
from runai.schema.requests import (
    TASKS,
    Cancel,
    Command,
    Convert,
    GetStatus,
    Hello,
    ListModels,
    Received,
    TaskUnion,
)

_TASKS: TypeAdapter[Any] = TypeAdapter(TaskUnion)
_EVENTS: TypeAdapter[Any] = TypeAdapter(Event)
EVENT_TYPES = tuple(cls.model_fields["type"].default for cls in get_args(get_args(Event)[0]))
# validation errors that the value has no part in
NOTHING_CAME = ("missing", "union_tag_not_found", "union_tag_invalid")
MAX_FIELDS = 100
MAX_VALUES = 100_000  # counted by commas and brackets
MOST_QUOTES = 4 * MAX_VALUES  # a key and a text each
MAX_DIGITS = 100
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_IDS: TypeAdapter[str] = TypeAdapter(RequestId)
_COMMANDS: dict[str, TypeAdapter[Any]] = {
    "hello": TypeAdapter(Hello),
    "cancel": TypeAdapter(Cancel),
    "received": TypeAdapter(Received),
    "convert": TypeAdapter(Convert),
    "models": TypeAdapter(ListModels),
    "status": TypeAdapter(GetStatus),
    "generate": _TASKS,
}


def decode(body: bytes, max_depth: int = Limits.max_json_depth) -> dict[str, Any]:
    """The JSON object in a body. Raises InvalidJSON if it is anything else, TooDeep.

    Parsing holds everybody up, and takes long for many small values, not for a few large ones.
    """
    outside = _outside_texts(body)
    if outside is None or sum(map(outside.count, (b",", b"[", b"]", b"{", b"}"))) > MAX_VALUES:
        raise InvalidJSON(f"The message has more than {MAX_VALUES} values.")
    depth = _depth(outside, max_depth)
    if depth > max_depth:
        raise TooDeep(f"The message is nested {depth} deep; at most {max_depth} are read.")
    try:
        message = _DECODER.decode(body.decode("utf-8-sig"))
    except ValueError as error:
        raise InvalidJSON(f"The message is not JSON: {error}.") from None
    if not isinstance(message, dict):
        raise InvalidJSON(f"The message is a JSON {type(message).__name__}, not an object.")
    return message


def _outside_texts(body: bytes) -> bytes | None:
    """All that stands outside of texts; None where there are too many quotes.

    Nearly all of a large message is a few long texts, and only `find` goes through them. In what
    is no JSON a parser gets as far as these are texts for it, too.
    """
    outside: list[bytes] = []
    begun, at, inside = 0, 0, False
    for _ in range(MOST_QUOTES):
        quote = body.find(b'"', at)
        if quote < 0:
            return b"".join(outside if inside else [*outside, body[begun:]])
        if not inside:
            outside.append(body[begun:quote])
            inside = True
        elif not _is_escaped(body, quote, at):
            begun, inside = quote + 1, False
        at = quote + 1
    return None


def _is_escaped(body: bytes, quote: int, since: int) -> bool:
    """Whether an odd number of backslashes stands before it; none of them before `since`."""
    if body[quote - 1 : quote] != b"\\":
        return False
    before = body[since:quote]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1


def _depth(outside: bytes, enough: int) -> int:
    """How deeply a parser would go, at most; looked at closely if it may be more than `enough`."""
    opened = outside.count(b"[") + outside.count(b"{")
    if opened <= enough:
        return opened
    brackets = outside.translate(None, _NO_BRACKETS)
    return max(accumulate(1 if mark in b"[{" else -1 for mark in brackets), default=0)


def _number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits, more than {MAX_DIGITS}")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(repeated)} stands twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_number)


def encode(message: BaseModel) -> bytes:
    """The JSON body (ASCII would be as valid; UTF-8 is shorter) of a typed message.

    Raises RunAIError for one that JSON cannot hold: with half a surrogate pair, say.
    """
    try:
        # (`model_dump_json` would make a text of these bytes)
        return message.__pydantic_serializer__.to_json(message, exclude_none=True)
    except PydanticSerializationError as error:
        raise RunAIError(f"The message cannot be written: {shortened(str(error))}.") from error


def parse_command(message: dict[str, Any]) -> Command:
    """A native message as its type; InvalidField or UnknownAction if it is none."""
    kind = message.get("type")
    adapter = _COMMANDS.get(kind) if isinstance(kind, str) else None
    if adapter is None:
        known = ", ".join(_COMMANDS)
        raise UnknownAction(
            f"There is no message of type {shown(kind)}.",
            hint=f"Use one of: {known}.",
            field="type",
        )
    return _validated(adapter, message)  # type: ignore[no-any-return]


def parse_task(fields: dict[str, Any]) -> Any:
    """The fields of a `generate` as a GenerationRequest: for dialects."""
    return _validated(_TASKS, fields)


def parse_event(message: dict[str, Any]) -> Event:
    """A server's message as its type, for clients."""
    return _validated(_EVENTS, message)  # type: ignore[no-any-return]


def _validated(adapter: TypeAdapter[Any], message: dict[str, Any]) -> Any:
    if len(message) > MAX_FIELDS:  # pydantic would list every one of them
        raise InvalidField(f"The message has {len(message)} fields, more than there are.")
    try:
        return adapter.validate_python(message)
    except RequestError:
        raise
    except ValidationError as error:
        raise _first_wrong_field(error) from None


def _first_wrong_field(error: ValidationError) -> InvalidField:
    first = error.errors(include_url=False)[0]
    parts = [str(part) for part in first["loc"]]
    # the first part of a union's location is its tag, not a field
    if parts and parts[0] in (*TASKS, *EVENT_TYPES):
        parts = parts[1:]
    tag = str(first.get("ctx", {}).get("discriminator", "")).strip("'")
    message = shortened(first["msg"].removeprefix("Value error, ").rstrip("."))
    came = "" if first["type"] in NOTHING_CAME else f" It is {shown(first['input'])}."
    return InvalidField(f"{message}.{came}", field=shortened(".".join(parts)) or tag or None)


def id_of(message: dict[str, Any]) -> str | None:
    """The id of a message that could not be understood, if it has one that can be answered to."""
    try:
        return _IDS.validate_python(message.get("id"))
    except ValidationError:
        return None


def shown(value: Any) -> str:
    """Any value a client sent as short printable text."""
    return _SHORT.repr(value)


def shortened(text: str, length: int = 300) -> str:
    """Text that may hold what a client sent, bounded and fit to be sent back as UTF-8."""
    text = text if len(text) <= length else f"{text[: length - 1]}…"
    return text.encode("utf-8", "replace").decode("utf-8")
