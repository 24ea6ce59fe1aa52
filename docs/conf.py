"""How Sphinx makes web pages of the Markdown that people read; bin/docs.sh runs it.

The whole project is the source, so that links between README.md, docs/ and the other READMEs are
links between pages, and are checked, anchors included. The pages are plain Markdown, for a code
host shows them too: the table of contents is what docs/README.md lists.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from sphinx.application import Sphinx

from runai import __version__

project = "RunAI"
release = __version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "docs/README"
include_patterns = ["*.md", "docs/*.md", "client_example/**README.md", "benchmarks/README.md"]
exclude_patterns = [".git", ".venv*", "build", "dist", "models.example", "tests"]
highlight_language = "none"
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"RunAI {release}"
html_show_copyright = False

LISTED = re.compile(r"^- \[.*?\]\(([\w./-]+)\.md\)", re.MULTILINE)


def add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Give the root page the table of contents that its own list is."""
    if name != root_doc:
        return
    folder = PurePosixPath("/", root_doc).parent
    pages = [str(folder / page) for page in ["../README", *LISTED.findall(source[0])]]
    source[0] += "\n".join(["\n```{toctree}", ":hidden:", "", *pages, "```\n"])


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_contents)
