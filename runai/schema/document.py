"""What docs/protocol.md and docs/errors.md can know from the code.

The prose lives in those files and is edited there; between `<!-- generated: NAME -->` and
`<!-- end -->` everything is replaced by what the function of that name gives. `PARTS` are those
of the schema and the errors; `runai.cli.document` has those of the commands and writes the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from pydantic import TypeAdapter

from runai import errors
from runai.schema import events, requests
from runai.schema.conversation import conversation
from runai.schema.dialects import krita
from runai.schema.events import Event
from runai.schema.fields import Model
from runai.schema.requests import Command
from runai.schema.samplers import EVENLY, METHODS, SCHEDULES

MARKED = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
ERROR_LINE = re.compile(r"^    [│├└─ ]*([A-Z]\w+) {2,}([a-z_]+) *(.*)$", re.MULTILINE)
REQUESTS = (
    requests.Hello,
    requests.Generate,
    requests.TextToImage,
    requests.ImageToImage,
    requests.Inpaint,
    requests.Outpaint,
    requests.Cancel,
    requests.Received,
    requests.Convert,
    requests.ListModels,
    requests.GetStatus,
)
EVENTS = (
    events.HelloEvent,
    events.Capabilities,
    events.Accepted,
    events.Loading,
    events.Progress,
    events.Preview,
    events.Completed,
    events.Picture,
    events.Parameters,
    events.Failed,
    events.ErrorBody,
    events.Canceled,
    events.Converted,
    events.Models,
    events.ModelInfo,
    events.Status,
    events.Memory,
    events.Holdings,
    events.Loaded,
    events.StageTimings,
    events.Counters,
)
RANGES = {
    "minimum": "≥ {}",
    "maximum": "≤ {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
}
# how the plugin's dialect reads a value -> what may stand there
READS: dict[Callable[[Any], Any], str] = {
    krita.read_text: "text",
    krita.read_integer: "a whole number, or text of one",
    krita.read_number: "a number, or text of one",
    krita.read_truth: "true or false, or text of them",
    krita.read_version: ", ".join(krita.VERSIONS),
}
Schema = Mapping[str, Any]
Mode = Literal["validation", "serialization"]


def fill(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """The text with every marked part written anew. Raises KeyError for one that is none."""
    return MARKED.sub(lambda part: f"{part[1]}{parts[part[2]]().rstrip()}\n{part[3]}", text)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '∣') for cell in row)} |" for row in lines)


def messages(classes: Iterable[type[Model]], mode: Mode) -> str:
    """One heading, sentence and table of fields per class."""
    return "\n\n".join(_message(cls, mode) for cls in classes)


def _message(cls: type[Model], mode: Mode) -> str:
    schema = cls.model_json_schema(mode=mode)
    rows = [
        (
            f"`{name}`",
            _type(field),
            _given(cls, name, mode),
            _range(field),
            field.get("description", ""),
        )
        for name, field in schema["properties"].items()
        if name in _own_fields(cls)
    ]
    given = "default" if mode == "validation" else "given"
    head = ("field", "type", given, "allowed", "meaning")
    sentence = " ".join((schema.get("description") or "").split())
    fields = table(head, rows) if rows else ""
    return "\n\n".join(part for part in (f"#### {_title(cls)}", sentence, fields) if part)


def _own_fields(cls: type[Model]) -> set[str]:
    """All fields but those that the table of the base class shows already."""
    base = cls.__base__
    shown = set(base.model_fields) if base is requests.Generate else set()
    return set(cls.model_fields) - shown


def _title(cls: type[Model]) -> str:
    if cls is requests.Generate:
        return "`generate`: the fields of every task"
    named = [key for key in ("task", "type") if key in cls.model_fields]
    if not named or cls.model_fields[named[0]].is_required():
        return cls.__name__
    default = cls.model_fields[named[0]].default
    return f"`generate`, `task: {default}`" if named[0] == "task" else f"`{default}`"


def _type(field: Schema) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if field.get("contentEncoding"):
        return "base64 text"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    return str(field["type"])


def _given(cls: type[Model], name: str, mode: Mode) -> str:
    """What stands in for a field that is left out; of events, whether it ever is."""
    field = cls.model_fields[name]
    if mode == "serialization":
        return "may be absent" if not field.is_required() and field.default is None else "always"
    return "required" if field.is_required() else f"`{json.dumps(field.default)}`"


def _range(field: Schema) -> str:
    if "anyOf" in field:
        return ", ".join(filter(None, map(_range, field["anyOf"])))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    return ", ".join(form.format(field[key]) for key, form in RANGES.items() if key in field)


def krita_options() -> str:
    """The plugin's keys, what they mean here, and how they are read."""
    plain = (krita.N_SAMPLES, krita.N_ITER, *krita.MODEL_NAMES, krita.BASE_PATH, krita.VERSION)
    rows = [
        (f"`{option.key}`", f"`{option.field}`", READS[option.read], ", ".join(option.tasks))
        for option in (*krita.OPTIONS, *plain)
    ]
    return table(("plugin's key", "field", "read as", "for"), rows)


def samplers() -> str:
    """The methods, a row each with the schedules behind its name, and the schedules' words."""
    methods = [
        (
            f"`{name}`",
            ", ".join(f"`_{schedule}`" for schedule in method.schedules),
            ", ".join(method.spellings),
        )
        for name, method in METHODS.items()
    ]
    schedules = [("", EVENLY), *SCHEDULES.items()]
    words = [(f"`_{name}`" if name else "none", ", ".join(said)) for name, said in schedules]
    heads = (("name", "schedules", "also understood"), ("schedule", "also understood"))
    return f"{table(heads[0], methods)}\n\n{table(heads[1], words)}"


def json_schema() -> str:
    """Of what a client sends, and of what a server sends."""
    both = {
        "Command": TypeAdapter(Command).json_schema(mode="validation"),
        "Event": TypeAdapter(Event).json_schema(mode="serialization"),
    }
    text = [f"### {name}\n\n```json\n{json.dumps(s, indent=1)}\n```" for name, s in both.items()]
    return "\n\n".join(text)


def error_codes() -> str:
    """Every code, its parent's, what happened and what to do."""
    said = meanings()
    rows = [
        (f"`{code}`", _parent_code(cls), cls.__name__, said[code], cls.default_hint)
        for code, cls in errors.all_errors().items()
    ]
    return table(("code", "kind of", "class", "what happened", "what to do"), rows)


def meanings() -> dict[str, str]:
    """What happened, in the few words of the tree, by code."""
    return {code: meaning for _, code, meaning in ERROR_LINE.findall(errors.__doc__ or "")}


def _parent_code(cls: type[errors.RunAIError]) -> str:
    parent = cls.__base__
    return f"`{parent.code}`" if parent and issubclass(parent, errors.RunAIError) else ""


def error_tree() -> str:
    tree = [line[4:] for line in (errors.__doc__ or "").splitlines() if ERROR_LINE.match(line)]
    return "\n".join(["```text", *tree, "```"])


PARTS: dict[str, Callable[[], str]] = {
    "requests": lambda: messages(REQUESTS, "validation"),
    "events": lambda: messages(EVENTS, "serialization"),
    "conversation": conversation,
    "krita-options": krita_options,
    "samplers": samplers,
    "json-schema": json_schema,
    "error-codes": error_codes,
    "error-tree": error_tree,
}
