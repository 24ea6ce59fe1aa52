"""The field types that requests and events are made of: images, ids, seeds, sizes.

Rule: a type here accepts exactly what docs/protocol.md says and nothing more; numbers are
not read out of strings (dialects do that for clients that send them so).
"""

from __future__ import annotations

import binascii
from typing import Annotated, Any

import pybase64
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from runai.schema.samplers import SAMPLERS, canonical_sampler

MAX_SEED = 2**63 - 1
MAX_SIDE = 16384


class Model(BaseModel):
    """Base of every request and event: frozen, strict, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


def decode_base64(value: Any) -> Any:
    """Base64 text, bare or as a `data:` URI, to the bytes of a picture."""
    if not isinstance(value, str):
        return value
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        data = pybase64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64 text") from None
    if not data:
        raise ValueError("an empty picture")
    return data


def _encode_base64(data: bytes) -> str:
    return pybase64.b64encode_as_string(data)


ImageData = Annotated[
    bytes,
    BeforeValidator(decode_base64),
    PlainSerializer(_encode_base64, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "a picture"}),
]
"""A picture's file bytes; on the wire base64 text (a data URI is read too)."""

RequestId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
# the order in which a structured prompt's parts are joined; others follow as they come
PROMPT_PARTS = ("subject", "outfit", "environment", "emotions", "style")


def join_prompt(value: Any) -> Any:
    """A structured prompt, a mapping from part to text or list of texts, as one text."""
    if not isinstance(value, dict):
        return value
    parts = [value[name] for name in PROMPT_PARTS if name in value]
    parts += [part for name, part in value.items() if name not in PROMPT_PARTS]
    texts = [text for part in parts for text in (part if isinstance(part, list) else [part])]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("its parts must be texts, or lists of texts")
    return ", ".join(text.strip() for text in texts if text.strip())


Prompt = Annotated[
    str,
    StringConstraints(max_length=20_000),
    BeforeValidator(join_prompt),
    WithJsonSchema(
        {
            "type": ["string", "object"],
            "description": f"text, or a mapping of {', '.join(PROMPT_PARTS)} to texts",
        }
    ),
]
Side = Annotated[int, Field(ge=64, le=MAX_SIDE, multiple_of=8)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Unit = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
SamplerName = Annotated[
    str,
    BeforeValidator(lambda v: canonical_sampler(v[:100]) if isinstance(v, str) else v),
    WithJsonSchema({"type": "string", "enum": list(SAMPLERS)}),
]
