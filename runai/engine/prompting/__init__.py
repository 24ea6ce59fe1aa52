"""Reading prompts: the syntax people write, in three dialects, into one form.

`plain` is text as it stands; `webui` is the syntax of AUTOMATIC1111's web UI; `compel` that of
the compel library. What a dialect means comes out as a script: which composition of weighted
text (`parts`) is in force from which step on. Tags that name LoRAs are taken out first.

Rules: pure (no torch, no tokens), no recursion, time linear in the text. Whatever the text,
nothing but `InvalidField` is raised; what is no syntax is text.
"""

from runai.engine.prompting.parts import BREAK, Break, Composition, Fragment, Line, Part, Script
from runai.engine.prompting.reading import Reading, parse, read

__all__ = [
    "BREAK",
    "Break",
    "Composition",
    "Fragment",
    "Line",
    "Part",
    "Reading",
    "Script",
    "parse",
    "read",
]
