"""The options of `runai generate`: one table from flags to the fields of a request.

Values are checked by the schema, once, as they are for every client; only what argparse and
the file system must say is said here. An error names the flag, not the field.
"""

from __future__ import annotations

import argparse
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from runai.errors import InvalidSetting, RequestError
from runai.schema import codec
from runai.schema.events import Version
from runai.schema.requests import TASKS, GenerationRequest, MemoryPlan, PromptDialect
from runai.schema.samplers import METHODS, SCHEDULES

LORA = "NAME[:WEIGHT[:TEXT_WEIGHT]]"
WEIGHTS = ("weight", "text_weight")


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, as in 512x512")
    return int(found[1]), int(found[2])


def _picture(text: str) -> bytes:
    try:
        return Path(text).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be read: {error.strerror}") from None


def _lora(text: str) -> dict[str, Any]:
    name, *words = text.split(":")
    if not name or len(words) > len(WEIGHTS) or not all(map(_is_number, words)):
        raise argparse.ArgumentTypeError(f"{text!r} is not {LORA}, as in outline:0.8")
    return {"name": name, **dict(zip(WEIGHTS, map(float, words), strict=False))}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Option:
    """A flag, the field (or the two) that it fills, and how it is read.

    `many`: the flag may be given again, and its field is a list.
    """

    flags: tuple[str, ...]
    fields: tuple[str, ...]
    read: Callable[[str], Any]
    metavar: str
    help: str
    many: bool = False


OPTIONS = (
    Option(("--negative",), ("negative_prompt",), str, "TEXT", "what should not be in it"),
    Option(("--steps",), ("num_inference_steps",), int, "N", "denoising steps (20)"),
    Option(("--guidance",), ("guidance_scale",), float, "X", "how closely to follow (7.5)"),
    Option(
        ("--sampler",),
        ("sampler",),
        str,
        "NAME",
        f"{', '.join(METHODS)}; most also with _{', _'.join(SCHEDULES)} behind (the model's)",
    ),
    Option(
        ("--guidance-start",),
        ("guidance_start",),
        float,
        "X",
        "guided from this part of its steps on (0)",
    ),
    Option(("--guidance-end",), ("guidance_end",), float, "X", "guided until this part (1)"),
    Option(
        ("--token-merging",), ("token_merging",), float, "X", "merge this part of like tokens (0)"
    ),
    Option(("--reuse",), ("reuse",), int, "N", "the whole UNet every N steps only (1)"),
    Option(("--eta",), ("eta",), float, "X", "DDIM's eta, 0 to 1 (0)"),
    Option(("--seed",), ("seed",), int, "N", "the same seed gives the same picture (random)"),
    Option(("--size",), ("width", "height"), _size, "WxH", "in pixels, multiples of 8"),
    Option(("--image",), ("image",), _picture, "PATH", "a picture to start from"),
    Option(("--mask",), ("mask_image",), _picture, "PATH", "white: repaint, black: keep"),
    Option(("--strength",), ("strength",), float, "X", "how much may change, 0 to 1"),
    Option(("-n", "--images"), ("num_images",), int, "N", "pictures, from seed, seed + 1, … (1)"),
    Option(("--model",), ("model",), str, "NAME", "see `runai models` (the default model)"),
    Option(
        ("--model-version",),
        ("model_version",),
        str,
        "|".join(get_args(Version)),
        "which kind of model",
    ),
    Option(
        ("--lora",),
        ("loras",),
        _lora,
        LORA,
        "draw with it, as much as said (1); again for more",
        True,
    ),
    Option(("--vae",), ("vae",), str, "NAME", "instead of the model's own"),
    Option(("--clip-skip",), ("clip_skip",), int, "N", "last layers of the text left out (0)"),
    Option(
        ("--prompt-dialect",),
        ("prompt_dialect",),
        str,
        "|".join(get_args(PromptDialect)),
        "how the prompts are to be read (recognised)",
    ),
    Option(
        ("--memory-plan",),
        ("memory_plan",),
        str,
        "|".join(get_args(MemoryPlan)),
        "how to save memory (the fastest that fits)",
    ),
)


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="what to draw")
    group = parser.add_argument_group("the picture")
    for option in OPTIONS:
        group.add_argument(
            *option.flags,
            dest=option.fields[0],
            type=option.read,
            metavar=option.metavar,
            help=option.help,
            action="append" if option.many else "store",
        )
    group.add_argument("--task", choices=TASKS, help="what to do (told by what is given)")
    group.add_argument("--nsfw-filter", action="store_true", help="blacken what is not safe")
    group.add_argument("--watermark", action="store_true", help="write an invisible watermark")


def request_of(arguments: argparse.Namespace) -> GenerationRequest:
    """The request that the options mean. Raises InvalidSetting or a RequestError."""
    task = arguments.task or _told_by(arguments)
    given: dict[str, Any] = {
        "prompt": arguments.prompt,
        "nsfw_filter": arguments.nsfw_filter,
        "watermark": arguments.watermark,
    }
    for option in OPTIONS:
        value = getattr(arguments, option.fields[0])
        if value is not None:
            given |= zip(option.fields, value if len(option.fields) > 1 else (value,), strict=True)
    try:
        request: GenerationRequest = codec.parse_task(
            {"id": secrets.token_hex(8), "task": task, **given}
        )
    except RequestError as error:
        error.field = _flag_of(error.field)
        raise
    return request


def _told_by(arguments: argparse.Namespace) -> str:
    if arguments.mask_image is not None and arguments.image is None:
        raise InvalidSetting("--mask: there is no picture to mask.", hint="Give --image too.")
    if arguments.mask_image is not None:
        return "inpaint"
    return "img2img" if arguments.image is not None else "txt2img"


def _flag_of(field: str | None) -> str | None:
    first = (field or "").partition(".")[0]  # "loras.0.weight" is of loras
    for option in OPTIONS:
        if first in option.fields:
            return option.flags[-1]
    return field
