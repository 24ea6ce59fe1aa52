"""Which dialect a prompt is written in, where the request does not say.

Decided by the first row of `ROWS` that fits either of the request's texts, and for both of
them: nobody writes two dialects at once. A text that fits none is plain, so that text without
syntax is given to the model exactly as it is. Lone words in plus signs (`notepad++`) and
brackets that do not pair (`:-(`) decide nothing.
"""

from __future__ import annotations

import re

from runai.engine.prompting.parts import NUMBER
from runai.schema.requests import PromptDialect

_ESCAPED = re.compile(r"\\.", re.DOTALL)
_END = r"(?=[\s,.;)]|$)"

# looked for in texts without escaped characters (NUL for a bracket) -> who writes so
ROWS: tuple[tuple[re.Pattern[str], PromptDialect], ...] = (
    (re.compile(rf":\s*{NUMBER}\s*\)"), "webui"),  # (x:1.2)
    (re.compile(r"[)\"]\s*\.(?:and|add|blend|swap|attend)\("), "compel"),
    (re.compile(r"\b(?:with|use)Lora\("), "compel"),
    (re.compile(rf"\)(?:\++|-+|\d*\.\d+){_END}"), "compel"),  # (x)++, (x)-, (x)1.3
    (re.compile(r"^[^(]*\([^)]*\)", re.DOTALL), "webui"),  # (x)
    (re.compile(r"^[^\[]*\[[^\]]*\]", re.DOTALL), "webui"),  # [x], [a:b:0.5], [a|b]
    (re.compile(r"\bBREAK\b"), "webui"),
    (re.compile(r"\x00"), "webui"),  # an escaped bracket
)


def recognise(*texts: str) -> PromptDialect:
    """The dialect of a request's texts."""
    blotted = [_ESCAPED.sub(_blot, text.replace("\x00", " ")) for text in texts]
    found = (dialect for row, dialect in ROWS if any(map(row.search, blotted)))
    return next(found, "plain")


def _blot(escaped: re.Match[str]) -> str:
    return "\x00" if escaped[0][1] in "()[]" else " "
