"""Whether Python and the packages are what this version asks for, by their metadata alone.

What is asked for is in setup.cfg where RunAI runs from its sources, else in its own metadata. A
packed program asks for nothing: it has what it was built with.
"""

from __future__ import annotations

import configparser
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import runai
from runai.cli import program
from runai.cli.checks import Finding
from runai.settings import Settings

SETUP = Path(runai.__file__).resolve().parents[1] / "setup.cfg"
FOR_DEVELOPERS = "dev"


@dataclass(frozen=True)
class Wanted:
    """`extras`: what else may be installed, by the name of what it is for."""

    python: str
    packages: Sequence[Requirement]
    extras: dict[str, list[Requirement]]


def wanted(setup: Path = SETUP) -> Wanted:
    """What this version asks for."""
    if program.is_packed():
        return Wanted("", (), {})
    return _of_sources(setup) if setup.is_file() else _of_installation()


def python(settings: Settings) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    asked = wanted().python
    if SpecifierSet(asked).contains(version, prereleases=True):
        yield Finding("ok", f"{version}, RunAI {runai.__version__}")
    else:
        yield Finding("problem", f"{version} is not {asked}.", f"Install Python {asked}.")


def required(settings: Settings, asked: Wanted | None = None) -> Iterator[Finding]:
    packages = (asked or wanted()).packages
    faults = list(_faults(packages))
    for package, fault in faults:
        yield Finding("problem", fault, f"Run: pip install '{package}'")
    if program.is_packed():
        yield Finding("ok", "they are inside the program")
    elif not faults:
        yield Finding("ok", f"all {len(packages)} that are needed")


def optional(settings: Settings, asked: Wanted | None = None) -> Iterator[Finding]:
    """One finding an extra: those who want none of it need none of it."""
    for name, packages in (asked or wanted()).extras.items():
        faults = list(_faults(packages))
        if any(_version(package) is None for package in packages):
            yield Finding("ok", f"{name}: not installed, and only needed for that")
        elif faults:
            package, fault = faults[0]
            yield Finding("warning", f"{name}: {fault}", f"Run: pip install '{package}'")
        else:
            yield Finding("ok", f"{name}: installed")


def _faults(packages: Sequence[Requirement]) -> Iterator[tuple[Requirement, str]]:
    for asked in packages:
        version = _version(asked)
        if version is None:
            yield asked, f"{asked.name} is not installed."
        elif not asked.specifier.contains(version, prereleases=True):
            yield asked, f"{asked.name} {version} is not {asked.specifier}."


def _version(asked: Requirement) -> str | None:
    try:
        return metadata.version(asked.name)
    except metadata.PackageNotFoundError:
        return None


def _of_sources(setup: Path) -> Wanted:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(setup, encoding="utf-8")
    options, extras = parser["options"], dict(parser["options.extras_require"])
    extras.pop(FOR_DEVELOPERS, None)
    return Wanted(
        options["python_requires"],
        _read(options["install_requires"].splitlines()),
        {name: _read(lines.splitlines()) for name, lines in extras.items()},
    )


def _of_installation() -> Wanted:
    about = metadata.metadata("runai")
    all_ = [Requirement(line) for line in metadata.requires("runai") or ()]
    names = set(about.get_all("Provides-Extra") or ()) - {FOR_DEVELOPERS}
    plain = [asked for asked in all_ if _is_meant(asked, "")]
    extras = {
        name: [asked for asked in all_ if asked not in plain and _is_meant(asked, name)]
        for name in sorted(names)
    }
    return Wanted(about["Requires-Python"], plain, extras)


def _is_meant(asked: Requirement, extra: str) -> bool:
    return asked.marker is None or asked.marker.evaluate({"extra": extra})


def _read(lines: Sequence[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
