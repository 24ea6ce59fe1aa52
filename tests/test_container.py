"""What the files for containers promise, as far as it can be seen without an engine for them."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from runai.settings import ROWS, load

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def lines_of(text: str) -> list[str]:
    return [line for line in text.strip().splitlines() if not line.startswith("#")]


def test_the_requirements_are_those_of_the_package() -> None:
    package = configparser.ConfigParser()
    package.read(ROOT / "setup.cfg", encoding="utf-8")
    assert lines_of((ROOT / "requirements.txt").read_text(encoding="utf-8")) == lines_of(
        package["options"]["install_requires"]
    )


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_is_closed_to_other_computers_and_can_change_nothing(name: str) -> None:
    service: dict[str, Any] = COMPOSE["services"][name]
    assert service["ports"] == ["127.0.0.1:50006:50006"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    models = next(volume for volume in service["volumes"] if ":/models" in volume)
    assert models.endswith(":/models:ro")
    assert service["environment"]["RUNAI_TOKEN"] == "${RUNAI_TOKEN:-}"


def test_there_is_a_service_for_whatever_the_daemon_does_by_itself_and_one_for_each_runtime() -> (
    None
):
    runtimes = {name: service.get("runtime") for name, service in COMPOSE["services"].items()}
    assert runtimes == {"app": None, "gpu": "nvidia", "cpu": "runc"}
    assert "profiles" not in COMPOSE["services"]["app"]
    daemon = json.loads((ROOT / "daemon.json").read_text(encoding="utf-8"))
    assert daemon["default-runtime"] in daemon["runtimes"]


def test_the_image_runs_as_nobody_special_with_settings_that_exist() -> None:
    assert re.findall(r"^USER (\w+)", DOCKERFILE, re.MULTILINE)[-1] == "1000"
    given = dict(re.findall(r"(RUNAI_[A-Z_]+)=(\S+)", DOCKERFILE.rpartition("FROM ")[2]))
    variables = {row.variable: row.name for row in ROWS.values()}
    chosen = {variables[key]: value for key, value in given.items() if key in variables}
    assert set(given) - set(variables) == {"RUNAI_VENV"}  # of bin/buildlinux.sh
    settings = load({**chosen, "model_base_path": "/tmp"}, {})
    assert (settings.host, settings.insecure, settings.keep_alive) == ("0.0.0.0", True, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["echo", "a b"], "a b\n"), (["-c", "/bin/bash bash"], "from a shell\n")],
)
def test_a_container_runs_what_it_is_told_and_gives_a_shell(words: list[str], said: str) -> None:
    done = subprocess.run(
        [ROOT / "bin" / "entry.sh", *words],
        input="echo from a shell",
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == said


@pytest.mark.parametrize("profile", [[], ["--profile", "nvidia"], ["--profile", "cpu"]])
def test_docker_compose_understands_its_file(profile: list[str]) -> None:
    if shutil.which("docker-compose") is None:
        pytest.skip("needs docker-compose")
    words = ["docker-compose", "--file", str(ROOT / "docker-compose.yml"), *profile, "config"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
