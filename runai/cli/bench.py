"""`runai bench`: measures what is claimed about speed, on this machine, and draws it.

Runs the programs of the benchmarks folder one after another, each in a process of its own, and
gathers what they print. Writes nothing unless it is told where to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from runai.cli import wiring
from runai.cli.exit_codes import ExitCode
from runai.cli.measuring import drawing, page, programs
from runai.cli.measuring.programs import PROGRAMS, Results
from runai.cli.parser import Parser
from runai.errors import InvalidSetting
from runai.jobs.engine import Engine


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    arguments = command_line().parse_args(words)
    if arguments.list:
        print("\n".join(_listed()))
        return ExitCode.OK
    home, chosen = programs.folder(), _chosen(arguments.names)
    for folder in filter(None, (arguments.plots, arguments.document)):
        folder.mkdir(parents=True, exist_ok=True)
    wiring.stay_offline()
    codes = []
    for name in chosen:
        found = _measure(name, home)
        codes.append(found.code)
        if not found.code:
            _keep(name, found, arguments.plots, arguments.document)
    return ExitCode.FAILED if any(codes) else ExitCode.OK


def command_line() -> Parser:
    parser = Parser("bench", "Measure what is claimed about speed, and draw it.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="which benchmarks; all that fit the machine"
    )
    parser.add_argument("--list", action="store_true", help="tell which there are, and run none")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw plots there, as SVG")
    parser.add_argument(
        "--document",
        type=Path,
        metavar="FOLDER",
        help="bring the figures and plots of performance.md there up to date",
    )
    return parser


def _listed() -> Iterator[str]:
    width = max(map(len, PROGRAMS))
    for name, one in PROGRAMS.items():
        obstacle = one.obstacle()
        yield f"{name:{width}}  {one.what}" + (f" ({obstacle})" if obstacle else "")


def _chosen(names: Sequence[str]) -> list[str]:
    """What to run; that it does not fit is said of what was not named."""
    if unknown := [name for name in names if name not in PROGRAMS]:
        raise InvalidSetting(
            f"There is no benchmark {unknown[0]!r}.", hint="`runai bench --list` tells which."
        )
    if names:
        return list(dict.fromkeys(names))
    obstacles = {name: one.obstacle() for name, one in PROGRAMS.items()}
    for name, obstacle in obstacles.items():
        if obstacle:
            print(f"{name} is left out: {obstacle}.")
    return [name for name, obstacle in obstacles.items() if not obstacle]


def _measure(name: str, home: Path) -> Results:
    print(f"\n{name}: {PROGRAMS[name].what}", flush=True)
    found = programs.run(PROGRAMS[name], home, lambda line: print(f"  {line}", flush=True))
    if found.code:
        print(f"  it ended with {found.code}", flush=True)
    return found


def _keep(name: str, found: Results, plots: Path | None, document: Path | None) -> None:
    if plots is not None:
        for figure in found.plots:
            drawing.draw(figure, plots / page.plot_name(name, figure))
    if document is not None:
        page.write(document, {name: page.as_json(found, page.machine())})
