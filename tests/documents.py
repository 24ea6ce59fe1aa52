"""The pages that people read, and the commands in them.

A command is a line of a block that has no language or is `sh`; whatever else stands in a block (a
drawing, a message, Python) has the language written on it, `text` at least.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"(^|\s+)#.*")
PAGES = (
    "README.md",
    "client_example/README.md",
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")),
)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """What stands in the blocks of these languages."""
    return [content for language, content in BLOCK.findall(text) if language in languages]


def commands(text: str) -> list[str]:
    """As they would be typed: without comments, lines that go on joined."""
    joined = "".join(blocks(text, "", "sh")).replace("\\\n", " ")
    return [line for line in (COMMENT.sub("", line) for line in joined.splitlines()) if line]


EVERYTHING = "\n".join(map(read, PAGES))
