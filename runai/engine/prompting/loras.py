"""The LoRAs that a prompt names: `<lora:name:0.8>`, and compel's `withLora(name, 0.8)`.

The web UI's order (extensions-builtin/Lora/extra_networks_lora.py) is name, weight for the text
encoder, weight for the UNet; the second weight is the first where it is missing, the first is
1. They may be named: `<lora:name:te=0.5:unet=0.8>`. A tag stands anywhere and leaves nothing
behind. Only the positive prompt's count, as in the web UI.
"""

from __future__ import annotations

import re

from runai.engine.prompting.parts import NUMBER, number
from runai.engine.prompting.recognition import recognise
from runai.errors import InvalidField
from runai.schema.requests import Generate, Lora, PromptDialect

MOST = 10.0  # of a weight either way, as in the field `loras`
_TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>", re.IGNORECASE)
_CALL = re.compile(rf"\b(?:with|use)Lora\(\s*([\w-]+)\s*(?:,\s*({NUMBER})\s*)?\)")
_NUMBER = re.compile(NUMBER)


def loras_of(request: Generate) -> list[Lora]:
    """All LoRAs a request wants: those of its field, then those its prompt names."""
    return [*request.loras, *loras_in(request.prompt, request.prompt_dialect)[1]]


def loras_in(
    text: str, dialect: PromptDialect | None, field: str = "prompt"
) -> tuple[str, list[Lora]]:
    """The text without its tags, and the LoRAs they name. Plain text, if so stated, has none.

    Raises InvalidField for a tag that cannot be understood.
    """
    if dialect == "plain":
        return text, []
    found: list[Lora] = []

    def take(tag: re.Match[str]) -> str:
        found.append(_lora(tag, field))
        return ""

    text = _TAG.sub(take, text)
    if (dialect or recognise(text)) == "compel":
        text = _CALL.sub(take, text)
    return text, found


def _lora(tag: re.Match[str], field: str) -> Lora:
    name, *arguments = tag[1].split(":") if tag.re is _TAG else [tag[1], tag[2] or "1"]
    said = [argument.strip().rpartition("=") for argument in arguments]
    named = {key.strip(): value for key, equals, value in said if equals}
    places = [value for _, equals, value in said if not equals]
    name = name.strip()
    if not 0 < len(name) <= 1024 or len(places) > 2 or not named.keys() <= {"te", "unet"}:
        raise _unclear(tag, field)
    text = _weight(tag, named.get("te", places[0] if places else "1"), field)
    unet = _weight(tag, named.get("unet", places[1] if len(places) > 1 else str(text)), field)
    return Lora(name=name, weight=unet, text_weight=None if text == unet else text)


def _weight(tag: re.Match[str], said: str, field: str) -> float:
    said = said.strip()
    if not _NUMBER.fullmatch(said) or abs(number(said)) > MOST:
        raise _unclear(tag, field)
    return number(said)


def _unclear(tag: re.Match[str], field: str) -> InvalidField:
    return InvalidField(
        f"The tag {tag[0][:80]!r} is not understood.",
        hint=f"Write <lora:name>, <lora:name:0.8>, or text and UNet weights from -{MOST:.0f} "
        f"to {MOST:.0f}: <lora:name:0.5:0.8>.",
        field=field,
    )
