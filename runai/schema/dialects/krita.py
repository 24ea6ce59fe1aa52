"""The vocabulary of the original server's Krita plugin.

A request is `{"action": A, "options": {…}}`; the options carry the keys of all four tabs in
every request, prefixed, so only those with the action's own prefix are read. Numbers may be
strings (they pass through an INI file). The plugin breaks for good on an `image` or progress
message with a key missing, so both are always sent whole; it ignores every other message,
which is why errors and cancellations go out in their native form.

What it cannot say is not invented: sizes and prompts come from the request, only the names
are changed. An error names the plugin's own key.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pybase64

from runai.errors import InvalidField, NotOffered, UnknownAction
from runai.schema import codec
from runai.schema.dialects import Spoken
from runai.schema.events import Canceled, Completed, Converted, Event, Failed, Loading, Progress
from runai.schema.fields import MAX_SEED
from runai.schema.requests import Command

# action -> why it is refused, and what to do instead
REFUSED = {
    "update": (
        "This server does not replace itself over the network.",
        "Install a newer version by hand.",
    ),
}
# what it can ask for, and has a progress bar for
TASKS = ("txt2img", "img2img", "inpaint", "outpaint")
CONVERT = "convert"
VERSIONS = {"v1": "v1", "v2": "v2", "v1 (community)": "v1", "v2 (community)": "v2"}
PROGRESS_ACTION = 4
_numbers = itertools.count(1)


def read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    return value


def read_integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return _bounded(value)
    if not isinstance(value, (str, float)):
        raise ValueError("a whole number")
    try:
        number = float(value) if not isinstance(value, str) or "." in value else int(value)
        if number != int(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError("a whole number") from None
    return _bounded(int(number))


def _bounded(number: int) -> int:
    if abs(number) > MAX_SEED:
        raise ValueError("a number of at most 64 bits")
    return number


def read_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("a number")
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise ValueError("a number") from None


def read_version(value: Any) -> str:
    found = VERSIONS.get(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"one of {', '.join(VERSIONS)}")
    return found


def read_truth(value: Any) -> bool:
    known = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
    found = known.get(str(value).strip().lower())
    if found is None:
        raise ValueError("true or false")
    return found


@dataclass(frozen=True)
class Option:
    """One row: the plugin's key (`A_` = prefixed by the action), our field, how it is read."""

    key: str
    field: str
    read: Callable[[Any], Any]
    tasks: tuple[str, ...] = TASKS


OPTIONS = (
    Option("A_prompt", "prompt", read_text),
    Option("A_negative_prompt", "negative_prompt", read_text),
    Option("A_steps", "num_inference_steps", read_integer),
    Option("A_scale", "guidance_scale", read_number),
    Option("A_seed", "seed", read_integer),
    Option("A_width", "width", read_integer),
    Option("A_height", "height", read_integer),
    Option("A_ddim_eta", "eta", read_number),
    Option("A_scheduler", "sampler", read_text),
    Option("A_strength", "strength", read_number, ("img2img",)),
    Option("do_nsfw_filter", "nsfw_filter", read_truth),
    Option("do_watermark", "watermark", read_truth),
    Option("pixels", "image", read_text, ("img2img", "inpaint", "outpaint")),
    Option("mask", "mask_image", read_text, ("inpaint", "outpaint")),
)
N_SAMPLES = Option("A_n_samples", "num_images", read_integer)
N_ITER = Option("A_n_iter", "num_images", read_integer)
VERSION = Option("version", "model_version", read_version)
BASE_PATH = Option("model_base_path", "model", read_text, (*TASKS, CONVERT))
# where a model's name may stand; the first that is not empty counts
MODEL_NAMES = tuple(
    Option(key, "model", read_text) for key in ("A_model", "model", "model_path", "A_model_path")
)
CONVERT_OPTIONS = (
    Option("convert_model", "model", read_text, (CONVERT,)),
    Option("convert_model_output_type", "form", read_text, (CONVERT,)),
)
DEFAULTS: dict[str, Any] = {
    "num_inference_steps": 20,
    "guidance_scale": 7.5,
    "seed": 42,
    "width": 512,
    "height": 512,
    "sampler": "euler_a",
}


@dataclass(frozen=True)
class KritaReply:
    """What the plugin wants repeated in every answer to a request."""

    reqtype: str
    pos_x: int = 0
    pos_y: int = 0

    def render(self, event: Event) -> list[bytes]:
        if isinstance(event, Progress):
            # its bar runs 0..total-1; step == total would reset it
            return [self._progress(max(event.step - 1, 0), event.total)]
        if isinstance(event, Loading):
            return [self._progress(0, 0)]  # shown as "busy"
        if isinstance(event, Completed):
            images = [self._image(picture.png) for picture in event.images]
            return [*images, self._progress(1, 1)]  # step == total: bar at rest
        if isinstance(event, Failed):
            return [codec.encode(self._in_its_words(event)), self._progress(1, 1)]
        if isinstance(event, Canceled):
            return [codec.encode(event), self._progress(1, 1)]
        if isinstance(event, Converted):  # it has no words for it, and ignores those it lacks
            return [codec.encode(event)]
        return []

    def _in_its_words(self, event: Failed) -> Failed:
        """The failure, naming the plugin's own key."""
        field = _key_of(event.error.field, self.reqtype)
        return event.model_copy(update={"error": event.error.model_copy(update={"field": field})})

    def _image(self, png: bytes) -> bytes:
        image = pybase64.b64encode_as_string(png)
        return _body(image=image, reqtype=self.reqtype, pos_x=self.pos_x, pos_y=self.pos_y)

    def _progress(self, step: int, total: int) -> bytes:
        return _body(action=PROGRESS_ACTION, reqtype=self.reqtype, step=step, total=total)


def _body(**message: Any) -> bytes:
    return json.dumps(message).encode("ascii")


def greeting(version: str) -> bytes:
    """The message the plugin expects on connecting; nothing is fetched to fill it."""
    return _body(
        versions={
            "latest_ksd_version": "",
            "latest_runai_version": version,
            "current_runai_version": version,
        }
    )


def reply_to(message: dict[str, Any]) -> KritaReply:
    """The Reply to a message in this vocabulary, however broken."""
    action = message.get("action")
    options = message.get("options")
    if action not in TASKS:
        action = TASKS[0]
    if not isinstance(options, dict):
        return KritaReply(str(action))
    return KritaReply(str(action), _position(options, "pos_x"), _position(options, "pos_y"))


def _position(options: dict[str, Any], key: str) -> int:
    try:
        return read_integer(options.get(key) or 0)
    except ValueError:
        return 0


def parse(message: dict[str, Any]) -> Spoken:
    """A plugin's message as the native request it means."""
    action = message.get("action")
    if isinstance(action, str) and action in REFUSED:
        why, hint = REFUSED[action]
        raise NotOffered(why, hint=hint, field="action")
    if action not in (*TASKS, CONVERT):
        known = ", ".join((*TASKS, CONVERT))
        raise UnknownAction(
            f"There is no action {codec.shown(action)}.",
            hint=f"Use one of: {known}; or send a `type` (docs/protocol.md).",
            field="action",
        )
    options = message.get("options")
    if not isinstance(options, dict):
        raise InvalidField("The options must be a JSON object.", field="options")
    if action == CONVERT:
        return Spoken(_conversion(options), reply_to(message))
    fields = _fields(str(action), options)
    try:
        request = codec.parse_task(fields)
    except InvalidField as error:
        error.field = _key_of(error.field, str(action))
        raise
    return Spoken(request, reply_to(message))


def _conversion(options: dict[str, Any]) -> Command:
    """The number format that it names is not asked after: a conversion keeps what is there."""
    given = {option.field: _read(option, CONVERT, options, "") for option in CONVERT_OPTIONS}
    given["model"] = _without_base(given["model"], options)
    try:
        return codec.parse_command({"type": CONVERT, "id": f"krita-{next(_numbers)}", **given})
    except InvalidField as error:
        keys = {option.field: option.key for option in CONVERT_OPTIONS}
        error.field = keys.get(error.field or "", error.field)
        raise


def _fields(action: str, options: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "task": action,
        "id": f"krita-{next(_numbers)}",
        **DEFAULTS,
        **_model(action, options),
        "num_images": _read(N_SAMPLES, action, options, 1) * _read(N_ITER, action, options, 1),
    }
    for option in OPTIONS:
        value = _read(option, action, options, None)
        if action in option.tasks and value is not None:
            fields[option.field] = value
    return fields


def _read(option: Option, action: str, options: dict[str, Any], default: Any) -> Any:
    key = _key(option, action)
    value = options.get(key)
    if value is None or action not in option.tasks:
        return default
    try:
        return option.read(value)
    except ValueError as wanted:
        raise InvalidField(f"It must be {wanted}, not {codec.shown(value)}.", field=key) from None


def _key(option: Option, action: str) -> str:
    return option.key.replace("A_", f"{action}_", 1) if option.key[:2] == "A_" else option.key


def _key_of(field: str | None, action: str) -> str | None:
    """The plugin's key for one of our fields."""
    for option in (*OPTIONS, N_SAMPLES, VERSION, *MODEL_NAMES):
        if option.field == field:
            return _key(option, action)
    return field


def _model(action: str, options: dict[str, Any]) -> dict[str, Any]:
    """The model's name and version.

    A fresh profile names a model that exists nowhere, with both paths empty: then the
    version's default model is meant.
    """
    base = _read(BASE_PATH, action, options, "")
    names = [_read(option, action, options, "") for option in MODEL_NAMES]
    return {
        "model": _without_base(next(filter(None, names), ""), options),
        "model_version": _read(VERSION, action, {"version": options.get("version") or "v1"}, None),
        "model_fallback": not base and not options.get("model_path"),
    }


def _without_base(name: str, options: dict[str, Any]) -> str:
    """A model's name below the base path that the plugin has put in front of it."""
    base = str(_read(BASE_PATH, CONVERT, options, "")).rstrip("/\\")
    if base and name.startswith((f"{base}/", f"{base}\\")):
        return name[len(base) :].lstrip("/\\")
    return name
