"""Bodies to messages to types, and back: the native protocol's reader and writer.

`decode` gives the JSON object of a body (UTF-8 or plain ASCII), `parse_command` and
`parse_event` the typed message, `encode` the bytes. A validation error of pydantic is
turned into one of ours here, naming the first wrong field, what came and what is allowed.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from runai.errors import InvalidField, InvalidJSON, RequestError, UnknownAction
from runai.schema.events import Event
from runai.schema.requests import (
    Cancel,
    Command,
    GetStatus,
    Hello,
    ListModels,
    TaskUnion,
)

_TASKS: TypeAdapter[Any] = TypeAdapter(TaskUnion)
_EVENTS: TypeAdapter[Any] = TypeAdapter(Event)
_COMMANDS: dict[str, TypeAdapter[Any]] = {
    "hello": TypeAdapter(Hello),
    "cancel": TypeAdapter(Cancel),
    "models": TypeAdapter(ListModels),
    "status": TypeAdapter(GetStatus),
    "generate": _TASKS,
}


def decode(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; InvalidJSON if it is anything else."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidJSON(f"The message is not JSON: {error}.") from None
    if not isinstance(message, dict):
        raise InvalidJSON(f"The message is a JSON {type(message).__name__}, not an object.")
    return message


def encode(message: BaseModel) -> bytes:
    """The JSON body (ASCII would be as valid; UTF-8 is shorter) of a typed message."""
    return message.model_dump_json(exclude_none=True).encode("utf-8")


def parse_command(message: dict[str, Any]) -> Command:
    """A native message as its type; InvalidField or UnknownAction if it is none."""
    kind = message.get("type")
    adapter = _COMMANDS.get(kind) if isinstance(kind, str) else None
    if adapter is None:
        known = ", ".join(_COMMANDS)
        raise UnknownAction(
            f"There is no message of type {kind!r}.", hint=f"Use one of: {known}.", field="type"
        )
    return _validated(adapter, message)  # type: ignore[no-any-return]


def parse_task(fields: dict[str, Any]) -> Any:
    """The fields of a `generate` as a GenerationRequest: for dialects."""
    return _validated(_TASKS, fields)


def parse_event(message: dict[str, Any]) -> Event:
    """A server's message as its type, for clients."""
    return _validated(_EVENTS, message)  # type: ignore[no-any-return]


def _validated(adapter: TypeAdapter[Any], message: dict[str, Any]) -> Any:
    try:
        return adapter.validate_python(message)
    except RequestError:
        raise
    except ValidationError as error:
        raise _first_wrong_field(error) from None


def _first_wrong_field(error: ValidationError) -> InvalidField:
    first = error.errors(include_url=False)[0]
    # the first part of a union's location is its tag, not a field
    parts = [str(part) for part in first["loc"]]
    tagged = len(parts) > 1 and parts[0] in {"txt2img", "img2img", "inpaint", "outpaint"}
    field = ".".join(parts[1:] if tagged else parts) or "task"
    came = "" if first["type"] == "missing" else f" It is {_shown(first['input'])}."
    return InvalidField(f"{first['msg'].rstrip('.')}.{came}", field=field)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
