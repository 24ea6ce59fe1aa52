"""Messages of sound form, a client's and a server's, and what may stand in their fields instead."""

from __future__ import annotations

import base64
import json
import math
from typing import Any, get_args

from PIL import Image

from runai.engine import images
from runai.schema.conversation import conversation
from runai.schema.dialects import krita
from runai.schema.events import ErrorBody, Event, Parameters, Picture
from runai.schema.requests import Command

PIXEL = base64.b64encode(images.write_small_png(Image.new("RGB", (1, 1)))).decode()
_EVENTS = get_args(get_args(Event)[0])
OPTIONS = (
    *krita.OPTIONS,
    *krita.MODEL_NAMES,
    *krita.CONVERT_OPTIONS,
    krita.N_ITER,
    krita.N_SAMPLES,
    krita.VERSION,
    krita.BASE_PATH,
)
_GENERATE: dict[str, Any] = {"type": "generate", "id": "a"}
_TAB: dict[str, Any] = {"pixels": PIXEL, "mask": PIXEL}
_CONVERT = {"convert_model": "a", "convert_model_output_type": "ckpt"}
SOUND: tuple[dict[str, Any], ...] = (
    {**_GENERATE, "task": "txt2img"},
    *({**_GENERATE, "task": task, "image": PIXEL} for task in ("img2img", "upscale")),
    *(
        {**_GENERATE, "task": task, "image": PIXEL, "mask_image": PIXEL}
        for task in ("inpaint", "outpaint")
    ),
    *({"action": action, "options": _TAB} for action in krita.TASKS),
    {"action": "convert", "options": _CONVERT},
    {"type": "convert", "id": "a", "model": "m", "form": "ckpt"},
    {"type": "cancel", "id": "a"},
    {"type": "hello"},
    {"type": "models"},
    {"type": "status"},
)
KEYS = sorted(
    {name for cls in get_args(Command) for name in cls.model_fields}
    | {option.key.replace("A_", f"{task}_") for option in OPTIONS for task in krita.TASKS}
    | {"action", "options", "pos_x", "pos_y", "versions", "a.b", "\ud800", ""}
)
SAID: list[dict[str, Any]] = [
    json.loads(line[2:].replace("iVBORw0KGgo…", PIXEL))
    for line in conversation().splitlines()
    if line.startswith("←")
]
SAID_KEYS = sorted(
    {name for cls in (*_EVENTS, Parameters, ErrorBody, Picture) for name in cls.model_fields}
)
_NUMBERS = (0, 1, -1, 8, 64, 65, 512, 2**31, 2**63, -(2**63), 2**64, 10**99, 0.5, -0.0, 1e308)
_NO_NUMBERS = (math.inf, -math.inf, math.nan)
_TEXTS = ("", "a", "\ud800", "\0", "é" * 200, "x" * 20_001, "/a\\b", PIXEL, f"data:,{PIXEL}")
_TEXTS_OF_NUMBERS = ("0", "-1", "512", "0.5", "1e999", "nan", "١", "1_0", "9" * 99, "9" * 400)
_WORDS = ("v1", "v2 (community)", "txt2img", "update", "ckpt", "webui", "euler", "full", "true")
_LISTS: tuple[Any, ...] = ([], [[]], [None], ["a", "b"], [{"name": "a"}], [{"name": "a"}] * 33)
_OBJECTS: tuple[Any, ...] = (
    {},
    {"": {}},
    {"subject": ["a"], "x": "b"},
    {"subject": [1]},
    [{"name": "a", "weight": math.nan}],
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, *_NUMBERS, *_NO_NUMBERS),
    *(*_TEXTS, *_TEXTS_OF_NUMBERS, *_WORDS, *_LISTS, *_OBJECTS),
)
