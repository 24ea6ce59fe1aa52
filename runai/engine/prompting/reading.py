"""The dialects as one table."""

from __future__ import annotations

from collections.abc import Callable

from runai.engine.prompting import compel, webui
from runai.engine.prompting.parts import Fragment, Part, Script
from runai.schema.requests import PromptDialect


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
