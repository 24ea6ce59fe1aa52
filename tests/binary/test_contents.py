"""What the packaged program leaves out is not missed; bin/test-binary.sh proves it of the whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A module that is None in there cannot be imported, as one that was left out. (Not peft: diffusers
# asks whether it is installed, and then imports it. Nor sphinx: scipy imports more of it where its
# name is there.)
DRAW = """
import sys
sys.path.insert(0, "packaging")
import contents
sys.modules.update(dict.fromkeys(set(contents.left_out()) - {"peft", "sphinx"}))
from runai.engine.samplers import SCHEDULERS, make_scheduler
for sampler in SCHEDULERS:
    make_scheduler(sampler, {}, 0)
from transformers import CLIPImageProcessor, DPTForDepthEstimation, DPTImageProcessorPil
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from runai.cli import main
words = ["generate", "a red circle", "--steps", "1", "--sampler", "lms_beta", "--port", "1"]
sys.exit(main([*words, "-o", sys.argv[1]]))
"""


@pytest.mark.slow
def test_what_the_program_leaves_out_is_not_missed_when_drawing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(tmp_path / "out.png")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out.png").is_file()
