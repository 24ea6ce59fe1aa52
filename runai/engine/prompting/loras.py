"""The LoRAs that a prompt names: `<lora:name:0.8>`, and compel's `withLora(name, 0.8)`.

The web UI's order (extensions-builtin/Lora/extra_networks_lora.py) is name, weight for the text
encoder, weight for the UNet; the second weight is the first where it is missing, the first is
1. They may be named: `<lora:name:te=0.5:unet=0.8>`. A tag stands anywhere and leaves nothing
behind, no other tag either that its going would make.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runai.engine.prompting.parts import NUMBER, number
from runai.errors import InvalidField
from runai.schema.requests import MOST_LORAS, Lora

MOST = 10.0  # of a weight either way, as in the field `loras`
TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>", re.IGNORECASE)
CALL = re.compile(rf"\b(?:with|use)Lora\(\s*([\w-]+)\s*(?:,\s*({NUMBER})\s*)?\)")
_NUMBER = re.compile(NUMBER)


def taken(
    text: str, forms: Sequence[re.Pattern[str]], field: str, most: int = MOST_LORAS
) -> tuple[str, list[Lora]]:
    """The text without tags of these forms (`TAG`, `CALL`), and the LoRAs they name.

    Raises InvalidField for a tag that cannot be understood, and for more than `most`.
    """
    found: list[Lora] = []
    while tags := next(filter(None, (list(form.finditer(text)) for form in forms)), None):
        if len(found) + len(tags) > most:
            raise _too_many(field)
        found += [_lora(tag, field) for tag in tags]
        text = tags[0].re.sub("", text)
    return text, found


def _lora(tag: re.Match[str], field: str) -> Lora:
    name, *arguments = tag[1].split(":") if tag.re is TAG else [tag[1], tag[2] or "1"]
    said = [argument.strip().rpartition("=") for argument in arguments]
    named = {key.strip(): value for key, equals, value in said if equals}
    places = [value for _, equals, value in said if not equals]
    name = name.strip()
    if not 0 < len(name) <= 1024 or len(places) > 2 or not named.keys() <= {"te", "unet"}:
        raise _unclear(tag, field)
    for_text = named.get("te", places[0] if places else "1")
    for_unet = named.get("unet", places[1] if len(places) > 1 else for_text)
    text, unet = (_weight(tag, weight, field) for weight in (for_text, for_unet))
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


def _too_many(field: str) -> InvalidField:
    return InvalidField(
        f"More than {MOST_LORAS} LoRAs are asked for.",
        hint=f"Name at most {MOST_LORAS}, those in the prompt and in `loras` together.",
        field=field,
    )
