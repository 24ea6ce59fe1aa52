"""The example conversation of docs/protocol.md, made of real messages so that it stays true."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

from runai import PROTOCOL_VERSION, __version__, errors
from runai.schema import codec, events, requests
from runai.schema.fields import Model
from runai.schema.limits import Limits
from runai.schema.samplers import SAMPLERS

PNG = b"a picture"
PNG_TEXT = base64.b64encode(PNG).decode()


def conversation() -> str:
    """An exchange in the native protocol; → is the client's line, ← the server's."""
    lines = [*_hello(), *_drawing(), *_refused(), *_canceled()]
    return "\n".join(["```text", *lines, "```"])


def _asks(**message: Any) -> str:
    codec.parse_command(message)  # what is shown here is valid
    return f"→ {json.dumps(message)}"


def _says(event: Model) -> str:
    return f"← {codec.encode(event).decode()}".replace(PNG_TEXT, "iVBORw0KGgo…")


def _hello() -> list[str]:
    able = events.Capabilities(
        tasks=list(requests.TASKS),
        samplers=list(SAMPLERS)[:2],
        max_message_bytes=67108864,
        **dataclasses.asdict(Limits()),
    )
    hello = events.HelloEvent(
        server_version=__version__, protocol=PROTOCOL_VERSION, state="ready", capabilities=able
    )
    return [_asks(type="hello", protocol=PROTOCOL_VERSION, client="my editor 1.0"), _says(hello)]


def _drawing() -> list[str]:
    size = {"width": 512, "height": 512}
    asked: dict[str, Any] = {"prompt": "a red circle", "num_inference_steps": 20, "seed": 7, **size}
    request = requests.TextToImage(id="a1", **asked)
    shared = set(events.Parameters.model_fields) - {"model", "image_guidance_scale"}
    said = request.model_dump(include=shared - set(requests.SHORTCUTS), exclude_none=True)
    used = events.Parameters(
        model="v1/shapes", guidance_scale=7.5, sampler="euler", image_guidance_scale=None, **said
    )
    picture = events.Picture(png=PNG, seed=7)
    return [
        _asks(type="generate", task="txt2img", id="a1", **asked),
        _says(events.Accepted(id="a1", position=0)),
        _says(events.Loading(id="a1", model="v1/shapes")),
        _says(events.Progress(id="a1", step=1, total=20, seconds_left=3.8)),
        _says(events.Progress(id="a1", step=20, total=20, seconds_left=0.0)),
        _says(events.Completed(id="a1", images=[picture], parameters=used)),
    ]


def _refused() -> list[str]:
    message = {"type": "generate", "task": "txt2img", "id": "a2", "width": 500}
    try:
        codec.parse_command(message)
    except errors.RunAIError as error:
        failed = events.Failed(id="a2", error=events.ErrorBody.of(error))
    return [f"→ {json.dumps(message)}", _says(failed)]


def _canceled() -> list[str]:
    return [
        _asks(type="generate", task="txt2img", id="a3", prompt="a blue star"),
        _says(events.Accepted(id="a3", position=0)),
        _asks(type="cancel", id="a3"),
        _says(events.Canceled(id="a3")),
    ]
