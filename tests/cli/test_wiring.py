"""Settings reach the parts that they are for."""

from __future__ import annotations

import pytest

from runai.cli import wiring
from runai.settings import Settings
from runai.testing.scripted import ScriptedEngine


@pytest.mark.parametrize("resume_s", [0.0, 7.0])
def test_how_long_a_client_is_waited_for_is_told_on_coming(resume_s: float) -> None:
    made = wiring.service(Settings(resume_s=resume_s), ScriptedEngine, lambda error: None)
    assert made.hello(1).capabilities.resume_s == resume_s
