"""Writes the models that the packaged program is tried with: run as a program.

    python models.py FOLDER

A tiny diffusers folder of every arch, a LoRA, a safety checker, a checkpoint to convert, and
one single file of the full size, 2.1 GB: a single file cannot be a small one.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import lora_files
import single_files
import tiny
import torch

from runai.engine import loading
from runai.engine.archs import ARCHS
from runai.engine.catalogue import Entry
from runai.engine.devices import choose
from runai.engine.safety import FOLDER
from runai.engine.vocabulary import BPE_NAME

ROOT = Path(__file__).resolve().parents[2]
NAMES = single_files.NAMES


def by_path(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_folders(base: Path) -> None:
    for name in NAMES:
        folder = tiny.write_model(base / ARCHS[name].version / name, name)
    folder = base / "v1" / "sd1"
    model = loading.load(Entry("v1/sd1", "v1", "diffusers", folder), choose("cpu", "fp32"), [])
    lora_files.write(base / "Lora" / "tiny.safetensors", lora_files.kohya(model))


def write_single_files(base: Path) -> None:
    """One to draw with, with a vocabulary of the size that it asks for; one to convert."""
    by_path(ROOT / "benchmarks" / "full_size.py").write(
        base / "v1" / "full.safetensors", ARCHS["sd1"], torch.float16
    )
    package = importlib.util.find_spec("clip")  # clip-anytorch, which bin/setup.sh dev installs
    assert package is not None and package.origin is not None
    (base / "CLIP").mkdir()
    shutil.copy(Path(package.origin).with_name(BPE_NAME), base / "CLIP")
    torch.save({"state_dict": {"a": torch.ones(2)}}, base / "tensors.ckpt")


def main() -> None:
    base = Path(sys.argv[1])
    write_folders(base)
    write_single_files(base)
    by_path(ROOT / "tests" / "engine" / "test_safety.py").write_filter(base, 2.0)
    assert (base / FOLDER).is_dir()


if __name__ == "__main__":
    main()
