"""A request's two prompts: their dialect, their LoRAs, and what their text says when.

Rules: the dialect is recognised once, from both prompts, and holds for both. Only the positive
prompt's LoRAs count, as in the web UI. Plain text, if so stated, has no tags. What is read,
stated as a request - its dialect, its texts, its LoRAs - is read the same again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runai.engine.prompting import compel, webui
from runai.engine.prompting.loras import CALL, TAG, taken
from runai.engine.prompting.parts import Fragment, Part, Script
from runai.engine.prompting.recognition import recognise
from runai.schema.requests import MOST_LORAS, Generate, Lora, PromptDialect


@dataclass(frozen=True)
class Reading:
    """`prompt`, `negative`: without tags. `loras`: all that are asked for, those of the
    request's field first. `idle`: whether the negative prompt had tags, which do nothing.
    """

    prompt: str
    negative: str
    dialect: PromptDialect
    loras: tuple[Lora, ...] = ()
    idle: bool = False


def read(request: Generate) -> Reading:
    """How a request's prompts are read. Raises InvalidField for tags that are not understood,
    and for more LoRAs than a request may have.
    """
    stated, field = request.prompt_dialect, "negative_prompt"
    if stated == "plain":
        return Reading(request.prompt, request.negative_prompt, stated, tuple(request.loras))
    room = MOST_LORAS - len(request.loras)
    prompt, found = taken(request.prompt, [TAG], "prompt", room)
    negative, idle = taken(request.negative_prompt, [TAG], field)
    dialect = stated or recognise(prompt, negative)
    if dialect == "compel":
        prompt, called = taken(prompt, [TAG, CALL], "prompt", room - len(found))
        negative, more = taken(negative, [TAG, CALL], field)
        found, idle = found + called, idle + more
    return Reading(prompt, negative, dialect, (*request.loras, *found), bool(idle))


def _plain(text: str, steps: int, field: str) -> Script:
    return ((0, (Part(((Fragment(text),) if text else (),)),)),)


PARSERS: dict[PromptDialect, Callable[[str, int, str], Script]] = {
    "plain": _plain,
    "webui": webui.parse,
    "compel": compel.parse,
}


def parse(text: str, dialect: PromptDialect, steps: int, field: str = "prompt") -> Script:
    """What a text without LoRA tags says at each of `steps` steps.

    `field`: the request's, named by the InvalidField that is raised for what cannot be done.
    """
    return PARSERS[dialect](text, steps, field)
