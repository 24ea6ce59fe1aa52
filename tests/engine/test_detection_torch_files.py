"""torch's files are read for what they hold; what they say is never done."""

from __future__ import annotations

import argparse
import collections
import math
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import headers
import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runai.engine.detection import identify

FORMS = pytest.mark.parametrize("zipped", [True, False])


def save(path: Path, content: Any, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def weights(name: str) -> dict[str, torch.Tensor]:
    """Tensors of the right shapes, all in the same bytes, so that they take little room."""
    shapes = {key: shape for key, (_, shape) in headers.rows(name).items()}
    room = torch.zeros(max(map(math.prod, shapes.values())), dtype=torch.uint8)
    return {key: room[: math.prod(shape)].reshape(shape) for key, shape in shapes.items()}


@FORMS
@pytest.mark.parametrize("name", ["sd1", "sd2-inpaint", "sdxl"])
def test_a_ckpt_is_told_from_its_pickle(tmp_path: Path, name: str, zipped: bool) -> None:
    content = {"state_dict": weights(name), "global_step": 7}
    finding = identify(save(tmp_path / "m.ckpt", content, zipped=zipped))
    assert (finding.kind, finding.arch, finding.format) == ("model", name, "ckpt")


@FORMS
def test_old_harmless_contents_are_passed_over(tmp_path: Path, zipped: bool) -> None:
    content = {
        "state_dict": collections.OrderedDict(weights("sd2")),
        "global_step": 875000,
        "loss": numpy.float64(0.5),
        "rows": numpy.zeros(3),
        "options": argparse.Namespace(lr=1.0),
        "sizes": torch.Size([1, 2]),
        "dtype": torch.float16,
        "parameter": torch.nn.Parameter(torch.zeros(2)),
        "parameters": torch.nn.ParameterDict({"a": torch.zeros(2)}),
        "seen": {1, 2},
    }
    finding = identify(save(tmp_path / "m.ckpt", content, zipped=zipped))
    assert (finding.arch, finding.prediction) == ("sd2", "epsilon")


@FORMS
@pytest.mark.parametrize("wrapped", [True, False])
def test_an_embedding_of_the_web_ui_is_told(tmp_path: Path, zipped: bool, wrapped: bool) -> None:
    vectors = {"*": torch.zeros(3, 768)}
    content = {
        "string_to_token": {"*": 265},
        "string_to_param": torch.nn.ParameterDict(vectors) if wrapped else vectors,
        "name": "nightstar",
        "step": 500,
        "sd_checkpoint_name": "v1-5",
    }
    finding = identify(save(tmp_path / "m.pt", content, zipped=zipped))
    assert (finding.kind, finding.arch) == ("embedding", "sd1")
    assert finding.metadata == {"name": "nightstar", "step": "500", "sd_checkpoint_name": "v1-5"}


def test_an_embedding_of_diffusers_is_told(tmp_path: Path) -> None:
    finding = identify(save(tmp_path / "learned_embeds.bin", {"<cat>": torch.zeros(1024)}))
    assert (finding.kind, finding.arch) == ("embedding", "sd2")


# --- what is none -------------------------------------------------------------------------


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    for name, compression in (("a.ckpt", zipfile.ZIP_DEFLATED), ("b.ckpt", zipfile.ZIP_STORED)):
        with zipfile.ZipFile(tmp_path / name, "w", compression) as archive:
            archive.writestr("archive/data.pkl", bytes(40 * 2**20))
    assert "compressed" in identify(tmp_path / "a.ckpt").reason
    assert "larger than" in identify(tmp_path / "b.ckpt").reason


@FORMS
def test_a_cut_file_is_broken(tmp_path: Path, zipped: bool) -> None:
    content = {f"<{i}>": torch.zeros(768) for i in range(3)}
    path = save(tmp_path / "m.pt", content, zipped=zipped)
    assert identify(path).kind == "embedding"
    size = path.stat().st_size
    for cut in (1, 100, size // 2, size - 40):
        os.truncate(path, size - cut)
        finding = identify(path)
        assert finding.fault == "broken", cut
        size = path.stat().st_size + cut
        save(path, content, zipped=zipped)


def test_other_archives_and_pickles_are_none_of_torchs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps({"a": 1}))
    assert "not one of torch's" in identify(tmp_path / "a.ckpt").reason
    assert "not one of torch's" in identify(tmp_path / "b.ckpt").reason


@settings(max_examples=100)
@given(st.integers(0, 400), st.integers(0, 255))
def test_no_flipped_byte_breaks_it(tmp_path_factory: Any, at: int, value: int) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.pt"
    torch.save({"<a>": torch.zeros(8)}, path, _use_new_zipfile_serialization=False)
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] = value
    path.write_bytes(raw)
    finding = identify(path)
    assert (finding.kind is None) == bool(finding.reason)


def test_notes_that_would_be_endless_when_written_out_are_not_shown(tmp_path: Path) -> None:
    deep: Any = ["x"]
    for _ in range(100):
        deep = [deep, deep]
    finding = identify(save(tmp_path / "m.pt", {"<a>": torch.zeros(768), "name": deep, "step": 7}))
    assert (finding.kind, finding.metadata) == ("embedding", {"step": "7"})
