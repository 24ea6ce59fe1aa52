"""The scripts' promises that need no installation."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from runai.cli.fetch.wellknown import WELL_KNOWN

ROOT = Path(__file__).parents[1]


def copied(folder: Path) -> Path:
    """The scripts and what they read, without a virtual environment beside them."""
    shutil.copytree(ROOT / "bin", folder / "bin")
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def run(script: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", **environ}
    return subprocess.run(
        [str(script), *words], capture_output=True, text=True, timeout=30, env=environment
    )


def test_a_python_that_is_too_old_is_named_with_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = run(copied(tmp_path / "repo") / "bin" / "run.sh", "a star", RUNAI_PYTHON=str(old))
    assert done.returncode == 1
    assert done.stderr.startswith("RunAI needs Python 3.11 or newer, and ")
    assert "RUNAI_PYTHON=" in done.stderr
    assert not (tmp_path / "repo" / ".venv").exists()


# stands for a Python: its name is its version; says so when it is asked for an environment
PYTHON = """#!/bin/sh
case "$*" in
    *print*) echo "$(basename "$0")" ;;
    "-m venv"*) echo "asked for an environment" && exit 1 ;;
esac
"""


@pytest.mark.parametrize(("named", "made"), [("3.12", True), ("3.11", False)])
def test_an_environment_of_another_python_than_is_named_is_made_anew(
    tmp_path: Path, named: str, made: bool
) -> None:
    repo = copied(tmp_path / "repo")
    here = repo / ".venv" / "bin"
    for stub in (tmp_path / "3.12", tmp_path / "3.11", here / "3.11", here / "runai"):
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(PYTHON)
        stub.chmod(0o755)
    (here / "python").write_text(f'#!/bin/sh\nexec {here}/3.11 "$@"\n')
    (here / "python").chmod(0o755)
    assert run(repo / "bin" / "setup.sh").returncode == 0, "what is named nowhere is kept"
    done = run(repo / "bin" / "setup.sh", RUNAI_PYTHON=str(tmp_path / named))
    assert ("asked for an environment" in done.stdout) is made
    assert (done.returncode != 0) is made


# stands for an environment's Python, without torch: notes what pip is to install; INDEX answers
EMPTY = """#!/bin/sh
case "$*" in
    *print*) echo 3 11 ;;
    *find_spec*) exit 1 ;;
    *urlopen*) [ "$(eval echo \\$$#)" = "$INDEX" ] ;;
    *" torch"*) echo "$*" >>"$LOG" ;;
esac
"""
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"


@pytest.mark.parametrize(
    ("has_gpu", "environ", "installed"),
    [
        (False, {"INDEX": f"{CPU_BUILDS}/torch/"}, f"torch==2.13.0 --index-url {CPU_BUILDS}"),
        (False, {"INDEX": ""}, "torch==2.13.0"),
        (False, {"INDEX": f"{CPU_BUILDS}/torch/", "PIP_NO_INDEX": "1"}, "torch==2.13.0"),
        (True, {"INDEX": f"{CPU_BUILDS}/torch/"}, "torch"),
        (True, {"INDEX": "", "RUNAI_TORCH": "torch==2.9.0"}, "torch==2.9.0"),
    ],
)
def test_the_torch_that_suits_the_machine_is_installed(
    tmp_path: Path, has_gpu: bool, environ: dict[str, str], installed: str
) -> None:
    if not has_gpu and Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA GPU")
    repo, tools, log = copied(tmp_path / "repo"), tmp_path / "tools", tmp_path / "log"
    stubs = {tools / "uname": "#!/bin/sh\necho Linux x86_64\n", repo / ".venv/bin/python": EMPTY}
    if has_gpu:
        stubs[tools / "nvidia-smi"] = "#!/bin/sh\n"
    for stub, text in stubs.items():
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(text)
        stub.chmod(0o755)
    done = run(repo / "bin/setup.sh", LOG=str(log), PATH=f"{tools}:/usr/bin:/bin", **environ)
    assert done.returncode == 0, done.stderr
    (line,) = log.read_text().splitlines()
    assert line.endswith(f"--disable-pip-version-check {installed}")


def test_without_a_prompt_run_shows_its_usage() -> None:
    done = run(ROOT / "bin" / "run.sh")
    assert (done.returncode, done.stderr.partition(" ")[0]) == (2, "usage:")


def test_ci_calls_exactly_the_test_script() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines == ["#!/bin/sh", 'exec "$(dirname "$0")/../bin/test.sh"']


def cleaned(repo: Path, *words: str) -> tuple[int, set[str]]:
    """How bin/clean.sh ended, and what of these files is left."""
    environments = {".venv/bin/python", ".venv312/lib/some.egg-info"}
    for name in {"build/x", "runai/__pycache__/a.pyc", "runai/a.py", *environments}:
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).touch()
    status = run(repo / "bin" / "clean.sh", *words).returncode
    left = {str(path.relative_to(repo)) for path in repo.rglob("*") if path.is_file()}
    return status, {name for name in left if not name.startswith(("bin/", "setup", "pyproj"))}


KEPT = {"runai/a.py", ".venv312/lib/some.egg-info"}


@pytest.mark.parametrize(
    ("words", "status", "left"),
    [
        ([], 0, {*KEPT, ".venv/bin/python"}),
        (["--all"], 0, KEPT),
        (["--help"], 2, {*KEPT, ".venv/bin/python", "build/x", "runai/__pycache__/a.pyc"}),
    ],
)
def test_clean_keeps_the_sources_and_removes_nothing_that_it_was_not_asked_to(
    tmp_path: Path, words: list[str], status: int, left: set[str]
) -> None:
    assert cleaned(copied(tmp_path), *words) == (status, left)


# --- install.sh: what it asks, fetches and says; the package itself is set up by setup.sh -----

# stands for the installed program: notes how it was called, fails for what FAIL names
RUNAI = """#!/bin/sh
echo "$*" >>"$LOG"
case "$*" in *"$FAIL"*) exit 1 ;; esac
"""


class Installing(NamedTuple):
    done: subprocess.CompletedProcess[str]
    calls: list[str]
    base: Path


def install(folder: Path, *words: str, fail: str = "(nothing)", setup: str = "") -> Installing:
    repo = copied(folder / "repo")
    (repo / ".venv" / "bin").mkdir(parents=True)
    stubs = {
        "bin/setup.sh": f'#!/bin/sh\ncd "$(dirname "$0")/.."\n{setup}\n',
        ".venv/bin/runai": RUNAI,
        ".venv/bin/python": "#!/bin/sh\necho Python 3.11.0\n",
    }
    for script, text in stubs.items():
        (repo / script).write_text(text)
        (repo / script).chmod(0o755)
    log, base = folder / "log", folder / "models"
    log.touch()
    done = run(repo / "bin" / "install.sh", *words, BASE_DIR=str(base), LOG=str(log), FAIL=fail)
    calls = [
        line.removesuffix(f" --model-base-path {base}") for line in log.read_text().splitlines()
    ]
    return Installing(done, calls, base)


BASES = ["models get base-v1", "models get base-v1-inpaint", "models get base-v2"]


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        ([], []),
        (["--no-models"], []),
        (["--yes"], BASES),
        (["--models", "base-xl"], ["models get base-xl"]),
    ],
)
def test_models_are_fetched_only_if_that_is_wanted(
    tmp_path: Path, words: list[str], calls: list[str]
) -> None:
    """Without a terminal nobody can say yes: then nothing large is fetched."""
    found = install(tmp_path, *words)
    assert (found.done.returncode, found.done.stderr) == (0, "")
    assert found.calls == ["models get vocabulary", *calls]


def test_install_says_beforehand_how_much_it_fetches_and_at_the_end_how_to_start(
    tmp_path: Path,
) -> None:
    said = install(tmp_path, "--yes").done.stdout.splitlines()
    assert said[0] == "RunAI will be installed in"
    assert "    Stable Diffusion 1.5 (base-v1), 2.1 GB" in said
    assert said[-1] == f"Installed. Start the server with: {tmp_path}/repo/.venv/bin/runai"


def test_install_knows_the_same_base_models_as_the_program(tmp_path: Path) -> None:
    script = (ROOT / "bin" / "install.sh").read_text()
    rows = re.findall(r"^(base-\S+) +([\d.]+) ", script, re.MULTILINE)
    known = {name: row for name, row in WELL_KNOWN.items() if name.startswith("base-")}
    assert dict(rows) == {name: f"{row.size_gb:.1f}" for name, row in known.items()}


def test_install_makes_the_folders_that_models_are_put_into(tmp_path: Path) -> None:
    found = install(tmp_path)
    made = sorted(path.name for path in found.base.iterdir())
    assert made == ["Lora", "VAE", "embeddings", "v1", "v2", "xl"]


def test_what_could_not_be_fetched_is_named_at_the_end(tmp_path: Path) -> None:
    found = install(tmp_path, "--yes", fail="base-v1-inpaint")
    assert found.done.returncode == 1
    assert found.calls == ["models get vocabulary", *BASES], "the others are fetched all the same"
    assert "Could not be fetched: base-v1-inpaint. Run this again" in found.done.stderr


def test_offline_takes_the_vocabulary_from_the_wheels(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    found = install(tmp_path, "--offline", str(tmp_path / "wheels"))
    assert found.calls == [f"models get vocabulary --wheels {tmp_path}/wheels"]


def test_wheels_that_do_not_suffice_are_said_to_be_for_another_python(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    found = install(tmp_path, "--offline", str(tmp_path / "wheels"), setup="exit 1")
    assert (found.done.returncode, found.calls) == (1, [])
    assert "this is Python 3.11.0: name another with RUNAI_PYTHON" in found.done.stderr


def test_a_second_run_says_that_it_is_installed_already(tmp_path: Path) -> None:
    said = install(tmp_path, setup="touch .venv/runai-stamp").done.stdout
    assert "installed already" not in said
    again = run(tmp_path / "repo" / "bin" / "install.sh", BASE_DIR=str(tmp_path), LOG="/dev/null")
    assert again.stdout.startswith("RunAI is installed already; ")


@pytest.mark.parametrize(
    "words", [["--offline"], ["--offline", "/none"], ["--models"], ["--models", "v9"], ["--all"]]
)
def test_wrong_options_of_install_change_nothing(tmp_path: Path, words: list[str]) -> None:
    found = install(tmp_path, *words)
    assert found.done.returncode == 2 and found.done.stderr.endswith("--help.\n")
    assert found.calls == [] and not found.base.exists()


def test_install_explains_itself() -> None:
    done = run(ROOT / "bin" / "install.sh", "--help")
    assert done.returncode == 0
    for option in ("--yes", "--models", "--no-models", "--offline"):
        assert f"bin/install.sh {option}" in done.stdout


# --- test-krita.sh: whether it runs at all ---------------------------------------------------

COVERED = ("client_example/krita", "tests/krita", "runai/transports", "runai/wire", "runai/schema")


def krita_stage(folder: Path, *, passes: bool) -> tuple[Path, dict[str, str]]:
    """A copy of what it covers; Krita and pytest are stubs, and nothing is installed."""
    repo, stubs = copied(folder / "repo"), folder / "stubs"
    for name in COVERED:
        shutil.copytree(ROOT / name, repo / name, dirs_exist_ok=True)
    (repo / "bin" / "passed-krita.sha256").unlink(missing_ok=True)
    stubs.mkdir()
    texts = {"krita": "", "Xvfb": "", "apt-get": "", "id": "echo 0", "bin/python": "exit 3"}
    for name, text in {**texts, **({"bin/python": ""} if passes else {})}.items():
        (stubs / name).parent.mkdir(exist_ok=True)
        (stubs / name).write_text(f"#!/bin/sh\n{text}\n")
        (stubs / name).chmod(0o755)
    environ = {"PATH": f"{stubs}:/usr/bin:/bin", "RUNAI_VENV": str(stubs), "TMPDIR": str(folder)}
    return repo, environ


def krita_run(repo: Path, environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    script = str(repo / "bin" / "test-krita.sh")
    return subprocess.run([script, *words], capture_output=True, text=True, timeout=30, env=environ)


def test_the_krita_stage_is_skipped_until_something_that_it_covers_changes(tmp_path: Path) -> None:
    repo, environ = krita_stage(tmp_path, passes=True)
    assert "Skipped" not in krita_run(repo, environ, "--if-needed").stdout
    again = krita_run(repo, environ, "--if-needed")
    assert (again.returncode, again.stdout.partition(":")[0]) == (0, "Skipped")
    with (repo / "runai" / "wire" / "packets.py").open("a") as source:
        source.write("# changed\n")
    assert "Skipped" not in krita_run(repo, environ, "--if-needed").stdout
    assert "Skipped" in krita_run(repo, environ, "--if-needed").stdout


def test_a_krita_stage_that_failed_is_not_taken_for_one_that_passed(tmp_path: Path) -> None:
    repo, environ = krita_stage(tmp_path, passes=False)
    assert krita_run(repo, environ).returncode == 1
    assert not (repo / "bin" / "passed-krita.sha256").exists()


def test_the_krita_stage_explains_itself(tmp_path: Path) -> None:
    repo, environ = krita_stage(tmp_path, passes=True)
    done = krita_run(repo, environ, "--help")
    assert done.returncode == 2
    for option in ("--if-needed", "--shots"):
        assert f"bin/test-krita.sh {option}" in done.stdout


# --- stage-needed.sh: whether a stage that takes long has to run ------------------------------


def test_a_stage_is_needed_until_it_has_passed_and_again_when_a_file_changes(
    tmp_path: Path,
) -> None:
    repo = copied(tmp_path)
    asks = (repo / "bin" / "stage-needed.sh", "passed", "setup.cfg", "bin")
    assert run(*asks).returncode == 0, "never passed"
    assert run(asks[0], "--passed", *asks[1:]).returncode == 0
    again = run(*asks)
    assert (again.returncode, again.stdout.split()[0]) == (1, "Skipped:")
    (repo / "bin" / "__pycache__").mkdir()
    (repo / "bin" / "__pycache__" / "a.pyc").touch()
    assert run(*asks).returncode == 1, "compiled modules are no change"
    shutil.move(repo / "bin" / "run.sh", repo / "bin" / "go.sh")
    assert run(*asks).returncode == 0, "a name is a change, too"


def test_a_path_that_is_not_there_is_an_error_and_no_answer(tmp_path: Path) -> None:
    script = copied(tmp_path) / "bin" / "stage-needed.sh"
    assert run(script, "passed", "no-such-folder").returncode == 2


@pytest.mark.parametrize("words", [["--help"], ["dist"]])
def test_wrong_options_of_the_build_build_nothing(tmp_path: Path, words: list[str]) -> None:
    repo = copied(tmp_path)
    done = run(repo / "bin" / "buildlinux.sh", *words)
    assert (done.returncode, done.stderr.partition(" ")[0]) == (2, "usage:")
    assert not (repo / ".venv").exists()
