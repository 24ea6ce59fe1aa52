"""Every command that stands in a document works, or is known not to be run here, and why.

A page's commands are run from its beginning to its end, in one sandbox, as a reader would. What was
run and what was not is printed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import EVERYTHING, PAGES, commands, read

from tests.docs.sandbox import Sandbox

NOT_RUN = {
    r"(sh )?bin/install\.sh.*": "fetches packages and models; test_scripts.py runs it without",
    r"bin/test\.sh": "it is what runs this",
    r"pip .*": "uses the network",
    r"bin/(buildlinux|test-binary)\.sh.*": "takes minutes; a stage of bin/test.sh runs them",
    r"RUNAI_TORCH=torch bin/setup\.sh": "for macOS, which is not here",
    r"\.venv/bin/python -m (pip|PyInstaller) .*": "for macOS, which is not here",
    r"python -m (pip install )?build": "uses the network; test_package.py builds both packages",
    r"docker-compose .*": "needs Docker",
    r"runai models get .*": "uses the network; test_readme.py reads its options",
    r"runai models convert \S+\.ckpt .*": "takes torch; test_readme.py runs it in its own process",
    r"runai models convert .*": "takes a model of full size; test_readme.py reads what it says",
    r"runai bench .*": "takes minutes; test_bench.py runs it with programs that take none",
    r"runai doctor": "draws with a real model; with --quick it is run",
}
# what is run in the place of a command
INSTEAD = {"scp secrets/certificate.pem secrets/token me@other.lan:": "cp secrets/[ct]* ."}
# what the page says that somebody has done elsewhere
BEFORE = {
    ("docs/troubleshooting.md", "runai status"): ("runai --keep-alive",),
    (
        "client_example/README.md",
        'RUNAI_TOKEN=$(cat token) python client_example/client.py "a star" star.png gpu.lan 50006 '
        "certificate.pem",
    ): (
        "runai certificate --into .",
        "runai --keep-alive --tls-cert certificate.pem --tls-key key.pem --token-file token",
    ),
}


def reason_not_to(command: str) -> str | None:
    return next((why for known, why in NOT_RUN.items() if re.fullmatch(known, command)), None)


def run(page: str, sandbox: Sandbox) -> list[str]:
    """A line on each of the page's commands."""
    said = []
    for command in commands(read(page)):
        if why := reason_not_to(command):
            said.append(f"  not run  {command}    ({why})")
            continue
        for first in BEFORE.get((page, command), ()):
            sandbox.run(first)
        sandbox.run(INSTEAD.get(command, command))
        said.append(f"  run      {command}")
    return said


@pytest.mark.parametrize("page", [page for page in PAGES if commands(read(page))])
def test_every_command_of_the_page_works(
    page: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox = Sandbox(tmp_path_factory.mktemp("page"))
    try:
        said = run(page, sandbox)
    finally:
        sandbox.close()
    with capsys.disabled():
        print("", page, *said, sep="\n")  # noqa: T201 (to be quoted)


def test_there_are_commands_in_the_documents() -> None:
    assert len(commands(EVERYTHING)) > 40


@pytest.mark.parametrize("known", NOT_RUN)
def test_every_reason_is_needed(known: str) -> None:
    reasons = {reason_not_to(command) for command in commands(EVERYTHING)}
    assert NOT_RUN[known] in reasons


def test_the_other_tables_name_no_command_that_is_gone() -> None:
    assert set(INSTEAD) <= set(commands(EVERYTHING))
    assert all(command in commands(read(page)) for page, command in BEFORE)


def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="There is no command 'draw'"):
        Sandbox(tmp_path).run("runai draw")


def test_a_server_that_cannot_start_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="was never said, but: runai: --port: '-1'"):
        Sandbox(tmp_path).run("runai --port -1")


def test_comments_and_other_languages_are_no_commands() -> None:
    text = "```\na b  # c\n# d\n```\n```sh\ne \\\n f\n```\n```python\ng\n```\n```text\nh\n```\n"
    assert commands(text) == ["a b", "e   f"]
