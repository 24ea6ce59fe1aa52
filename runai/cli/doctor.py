"""`runai doctor`: looks at the installation, and says what is wrong and what to do.

The checks are in `checks`; this is how they are run and shown. Those that could end the
process are run in one child, which says each finding as soon as it has it: where it ends before
its time, the check that it was at is the one that did it. The child is this command again,
with `--apart`. Nothing heavy is imported here, so that it works where much is broken.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from runai import settings as all_settings
from runai.cli import program
from runai.cli.checks import CHECKS, REINSTALL, Check, Finding, State, made
from runai.cli.exit_codes import ExitCode
from runai.cli.parser import Parser
from runai.errors import InvalidSetting
from runai.settings import Settings

if TYPE_CHECKING:
    from runai.jobs.engine import Engine

PATIENCE_S = 300.0  # for the child
# "do": before what to do
SIGNS: dict[State | Literal["do"], str] = {"ok": "✓", "warning": "!", "problem": "✗", "do": "→"}
PLAIN_SIGNS: dict[State | Literal["do"], str] = {
    "ok": "+",
    "warning": "!",
    "problem": "x",
    "do": ">",
}
Found = tuple[str, Finding]  # of the check of that name


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    arguments = command_line().parse_args(words)
    settings, wrong = _settings(arguments)
    if arguments.apart:
        _tell_apart(settings, arguments)
        return ExitCode.OK
    found: list[Found] = []
    for name, finding in (*wrong, *_all(settings, arguments, words)):
        found.append((name, finding))
        if not arguments.json:
            _print(name, finding)
    if arguments.json:
        print(json.dumps([{"check": name, **dataclasses.asdict(f)} for name, f in found], indent=2))
    well = all(finding.state != "problem" for _, finding in found)
    return ExitCode.OK if well else ExitCode.FAILED


def command_line() -> Parser:
    parser = Parser("doctor", "Check the installation, and say what to do.")
    parser.add_argument("--json", action="store_true", help="a list of JSON objects")
    parser.add_argument("--quick", action="store_true", help="without drawing a picture")
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    parser.add_settings()
    return parser


def _settings(arguments: argparse.Namespace) -> tuple[Settings, list[Found]]:
    """Those in force; where one is wrong, the defaults and what is wrong."""
    try:
        return all_settings.load(vars(arguments), config=arguments.config), []
    except InvalidSetting as error:
        said = f"{error.message} The defaults are looked at."
        return Settings(), [("settings", Finding("problem", said, error.hint))]


def _all(
    settings: Settings, arguments: argparse.Namespace, words: Sequence[str]
) -> Iterator[Found]:
    for check in CHECKS:
        if not check.apart:
            yield from ((check.name, finding) for finding in made(check, settings))
    yield from _apart(words, _wanted(arguments))


def _wanted(arguments: argparse.Namespace) -> list[Check]:
    return [check for check in CHECKS if check.apart and not (check.slow and arguments.quick)]


# In the child.


def _tell_apart(settings: Settings, arguments: argparse.Namespace) -> None:
    """Make the checks; each with its findings is a line of JSON."""
    from runai.cli import wiring

    wiring.stay_offline()
    bad: set[str] = set()
    for check in _wanted(arguments):
        if check.needs in bad:
            bad.add(check.name)
            findings = []  # what it needs has said enough
        else:
            findings = made(check, settings)
        if any(finding.state == "problem" for finding in findings):
            bad.add(check.name)
        said = {"check": check.name, "findings": [dataclasses.asdict(f) for f in findings]}
        print(json.dumps(said), flush=True)


# In the parent.


def _apart(words: Sequence[str], wanted: Sequence[Check]) -> Iterator[Found]:
    """The findings of the child, and what becomes of it where it does not get to all of them."""
    command = [*program.words(), "doctor", *words, "--apart"]
    try:
        child = subprocess.run(  # noqa: S603 (words of our own)
            command, capture_output=True, timeout=PATIENCE_S, encoding="utf-8", errors="replace"
        )
        said, end = child.stdout, _end(child)
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode("utf-8", "replace")
        end = f"It was not done after {PATIENCE_S:g} s."
    waiting = [check.name for check in wanted]
    for name, findings in _read(said):
        waiting.remove(name)
        yield from ((name, finding) for finding in findings)
    if waiting:
        yield waiting[0], Finding("problem", end, f"{REINSTALL} Or another build of torch.")


def _read(said: str) -> Iterator[tuple[str, list[Finding]]]:
    """The child's lines; libraries may print others."""
    for line in said.splitlines():
        if line.startswith('{"check": '):
            one: dict[str, Any] = json.loads(line)
            yield one["check"], [Finding(**finding) for finding in one["findings"]]


def _end(child: subprocess.CompletedProcess[str]) -> str:
    last = (child.stderr.strip().splitlines() or ["nothing"])[-1][:300]
    code = child.returncode
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    return f"It ended {how}, and said: {last}"


def _print(name: str, finding: Finding) -> None:
    encoding = sys.stdout.encoding or "ascii"
    signs = SIGNS if encoding.lower().startswith("utf") else PLAIN_SIGNS
    found = " ".join(finding.found.split())
    lines = [f"{signs[finding.state]} {name:<14} {found}"]
    if finding.do:
        lines.append(f"  {'':<14} {signs['do']} {finding.do}")
    for line in lines:  # names of files and folders have letters of anywhere
        print(line.encode(encoding, "replace").decode(encoding), flush=True)
