"""A model file can never run code, whatever it holds, and never takes the memory for itself."""

from __future__ import annotations

import argparse
import resource
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import torch

from runai.engine import loading, pickles
from runai.engine.catalogue import Entry
from runai.engine.detection import identify
from runai.engine.devices import choose
from runai.engine.pickles.known import HARMLESS
from runai.engine.small_files import index
from runai.errors import ModelBroken, ModelError, ModelUnsafe

FP32 = choose("cpu", "fp32")


def load(path: Path) -> Any:
    return loading.load(Entry("v1/bad", "v1", "ckpt", path, arch="sd1"), FP32, [path.parent])


def nothing_in(path: Path) -> bool:
    """Whether a LoRA or embedding of that name is refused, or has no tensors at least."""
    try:
        return index(path) == ({}, {})
    except (ModelUnsafe, ModelBroken):
        return True


@pytest.mark.parametrize("name", hostile.CORPUS)
@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_a_hostile_file_is_refused_everywhere_and_what_it_asks_for_does_not_happen(
    tmp_path: Path, name: str, ending: str
) -> None:
    path, proof = tmp_path / f"bad{ending}", tmp_path / "it-ran"
    hostile.CORPUS[name](path, proof)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ModelUnsafe, ModelBroken), match="v1/bad"):
        load(path)
    assert nothing_in(path)
    assert identify(path).kind is None
    assert not proof.exists()
    assert "antigravity" not in sys.modules
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


def stretched(path: Path) -> None:
    torch.save({"<a>": torch.zeros(1).expand(2**40)}, path)


def empty_but_wide(path: Path) -> None:
    torch.save({"<a>": torch.zeros(0).expand(2**60, 0)}, path)


def one_for_many(path: Path) -> None:
    one = torch.zeros(2**18)
    torch.save({f"<{i}>": one for i in range(10**5)}, path)


@pytest.mark.parametrize("write", [stretched, empty_but_wide, one_for_many])
def test_views_of_next_to_nothing_are_not_made_whole(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "m.pt")
    with pytest.raises(ModelBroken, match=r"m\.pt .* larger than (the file|its storage)"):
        index(tmp_path / "m.pt")


@pytest.mark.parametrize("name", hostile.PAYLOADS)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_payload_makes_the_file_unsafe_not_just_broken(
    tmp_path: Path, name: str, form: str
) -> None:
    path = tmp_path / "bad.ckpt"
    hostile.CORPUS[f"{name}, {form}"](path, tmp_path / "it-ran")
    for entrance in (load, index):
        with pytest.raises(ModelUnsafe, match=r"bad\.ckpt.*could run code"):
            entrance(path)
    finding = identify(path)
    assert finding.fault == "unsafe" and "could run code" in finding.reason


def test_torch_itself_would_have_run_such_a_payload(tmp_path: Path) -> None:
    """The corpus is live: otherwise its refusal would prove nothing."""
    path, proof = tmp_path / "bad.ckpt", tmp_path / "it-ran"
    hostile.CORPUS["os.system, zip"](path, proof)
    torch.load(path, weights_only=False)
    assert proof.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_harmless_things_that_old_trainers_left_are_passed_over(
    tmp_path: Path, legacy: bool
) -> None:
    path = tmp_path / "old.ckpt"
    content = {
        "epoch": np.float64(3.0),
        "dtype": np.dtype("float32"),
        "noise": np.zeros(3),
        "args": argparse.Namespace(lr=1e-5),
        "home": Path("x") if sys.version_info < (3, 13) else None,
        "seen": {1, 2},
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "state_dict": OrderedDict(x=torch.arange(6.0).reshape(2, 3)),
    }
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    tensor = pickles.state_dict(pickles.read(path))["x"]
    assert (tensor.dtype, tensor.shape) == ("F32", (2, 3))
    stored = np.frombuffer(path.read_bytes(), np.float32, 6, tensor.offset)
    assert stored.tolist() == [0, 1, 2, 3, 4, 5]


def test_classes_of_a_training_library_are_passed_over_without_it(tmp_path: Path) -> None:
    library = "pytorch_lightning.callbacks.model_checkpoint"
    pickled = f"}}c{library}\nModelCheckpoint\n}}X\x01\x00\x00\x00aK\x01ss.".encode()
    path = tmp_path / "lightning.ckpt"
    hostile.archive(path, pickled)
    assert pickles.state_dict(pickles.read(path)) == {}
    assert "pytorch_lightning" not in sys.modules


def test_no_harmless_name_is_one_that_does_anything() -> None:
    """Even if a name were called some day: none of these reads, writes, imports or evaluates."""
    dangerous = ("eval", "exec", "compile", "open", "getattr", "setattr", "__import__", "load")
    assert not [name for name in HARMLESS if name.rpartition(".")[2] in dangerous]
    assert not [name for name in HARMLESS if name.startswith(("os.", "posix.", "subprocess."))]


@pytest.mark.parametrize("seed", range(300))
def test_a_damaged_ckpt_is_an_error_of_ours_or_nothing(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "m.ckpt"
    torch.save(
        {"state_dict": {f"k{i}": torch.zeros(2, 3) for i in range(4)}},
        path,
        _use_new_zipfile_serialization=seed % 2 == 0,
    )
    rng = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 8)):
        content[rng.integers(len(content))] = rng.integers(256)
    path.write_bytes(content[: rng.integers(1, len(content) + 1)] if seed % 3 else content)
    try:
        rows = pickles.state_dict(pickles.read(path))
    except ModelError as error:
        assert path.name in error.message
    else:
        assert all(isinstance(row, pickles.Tensor) for row in rows.values())
