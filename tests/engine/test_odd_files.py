"""One odd file among others: an answer, quickly and in little memory, at every entrance."""

from __future__ import annotations

import json
import resource
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import headers
import odd_files
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from runai.engine import loading, loras_fitting
from runai.engine.catalogue import Catalogue, Entry
from runai.engine.detection import identify
from runai.engine.devices import choose
from runai.engine.small_files import index, read
from runai.errors import ModelError

FP32 = choose("cpu", "fp32")


def entry(path: Path) -> Entry:
    return Entry("v1/bad", "v1", "ckpt", path, arch="sd1")


ENTRANCES: dict[str, Callable[[Path], object]] = {
    "a model": lambda path: loading.load(entry(path), FP32, [path.parent]),
    "a VAE": lambda path: loading.load_vae(entry(path), FP32),
    "a LoRA": lambda path: loras_fitting.look(entry(path)),
    "an embedding": lambda path: read(index(path)[0]),
}


@contextmanager
def quick_and_small() -> Iterator[None]:
    """Bounds far above what is needed, and far below what these files ask for."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.thread_time()
    yield
    assert time.thread_time() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200 * 1024  # KiB


@pytest.mark.parametrize("name", odd_files.FILES)
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_an_odd_file_is_an_answer_or_an_error_of_ours_at_every_entrance(
    tmp_path: Path, name: str, ending: str
) -> None:
    write, kind = odd_files.FILES[name]
    path = tmp_path / f"bad{ending}"
    write(path)
    with quick_and_small():
        finding = identify(path)
        assert finding.kind == kind
        assert bool(finding.reason) == (kind is None) and len(finding.reason) <= 200
        for called, entrance in ENTRANCES.items():
            try:
                entrance(path)
            except ModelError as error:
                assert "bad" in error.message, called
                assert len(error.message) < 400, called
            else:
                assert called in ("a LoRA", "an embedding")


def test_odd_files_leave_the_listing_to_all_others(tmp_path: Path) -> None:
    headers.write(tmp_path / "v1" / "good.safetensors", headers.rows("sd1"))
    for number, (write, _) in enumerate(odd_files.FILES.values()):
        write(tmp_path / "v1" / f"{number}.pt")
    catalogue = Catalogue([tmp_path])
    with quick_and_small():
        infos, unusable = catalogue.infos(), catalogue.unusable()
    for one in [*infos, *unusable]:
        assert one.model_dump_json()
    assert len(infos) + len(unusable) == len(odd_files.FILES) + 1
    assert catalogue.find("good").arch == "sd1"


def test_half_a_character_is_shown_as_what_stands_for_one(tmp_path: Path) -> None:
    odd_files.embedding(name=odd_files.text("a\ud800b"))(tmp_path / "m.pt")
    name = identify(tmp_path / "m.pt").metadata["name"]
    assert name.startswith("a�") and name.endswith("b")


@pytest.mark.parametrize(("written", "called"), [(".safetensors", ".pt"), (".pt", ".safetensors")])
def test_a_file_is_read_for_what_it_is_whatever_its_ending(
    tmp_path: Path, written: str, called: str
) -> None:
    path = tmp_path / f"m{written}"
    vectors = {"emb_params": torch.ones(2, 768)}
    save_file(vectors, path) if written == ".safetensors" else torch.save(vectors, path)
    path = path.rename(tmp_path / f"m{called}")
    assert identify(path).kind == "embedding"
    assert read(index(path)[0])["emb_params"].sum() == 2 * 768


@pytest.mark.parametrize("shape", [(1, 2, 768), (10**4, 768)])
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_vectors_that_are_none_are_listed_with_their_form(
    tmp_path: Path, ending: str, shape: tuple[int, ...]
) -> None:
    path, vectors = tmp_path / f"m{ending}", torch.zeros(shape)
    if ending == ".pt":
        torch.save({"string_to_param": {"*": vectors}}, path)
    else:
        save_file({"emb_params": vectors}, path)
    assert str(list(shape)) in identify(path).reason


# --- what is almost right ----------------------------------------------------------------


def _small_files(folder: Path) -> dict[str, bytes]:
    """A file of each kind and form, small and sound."""
    path = folder / "sound"
    made: dict[str, bytes] = {}
    for kind in ("lora-sd1", "sd1", "vae"):
        rows = {k: [d, [0, *s[1:]]] for k, (d, s) in headers.rows(kind).items()}
        made[kind] = headers.write(path, rows).read_bytes()
    odd_files.lora(ss_tag_frequency='{"a":{"b":1}}')(path)
    made["lora"] = path.read_bytes()
    odd_files.embedding()(path)
    made["embedding"] = path.read_bytes()
    for zipped in (True, False):
        content = {"state_dict": {"a": torch.zeros(2, 3)}, "name": "x"}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        made[f"torch {zipped}"] = path.read_bytes()
    return made


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return _small_files(tmp_path_factory.mktemp("sound"))


def _looked_at(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    finding = identify(path)
    assert (finding.kind is None) == bool(finding.reason)
    assert finding.kind or finding.fault


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_changed_bytes_are_more_than_an_answer(
    sound: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    content = bytearray(sound[data.draw(st.sampled_from(sorted(sound)))])
    # what says something lies at the start, and in archives at the end
    places = st.one_of(
        st.integers(0, min(len(content), 3000) - 1),
        st.integers(max(0, len(content) - 800), len(content) - 1),
    )
    for at, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
        content[at] = value
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    _looked_at(tmp_path_factory.getbasetemp() / "changed", bytes(content[:cut]))


_ODD_NUMBERS = st.sampled_from([-1, 0, 1, 2**31, 2**63, 10**30, 1e999, 0.5])
_ODD_VALUES = st.recursive(
    st.none() | st.booleans() | _ODD_NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_changed_header_is_more_than_an_answer(
    sound: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    content = sound[data.draw(st.sampled_from(["lora-sd1", "sd1", "vae", "lora"]))]
    (length,) = struct.unpack("<Q", content[:8])
    table = json.loads(content[8 : 8 + length])
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from([*list(table)[:3], "__metadata__", "emb_params"]))
        value = data.draw(_ODD_VALUES)
        part = data.draw(st.sampled_from(["", "dtype", "shape", "data_offsets"]))
        known = table.get(name)
        table[name] = {**known, part: value} if part and isinstance(known, dict) else value
    header = json.dumps(table).encode()
    changed = struct.pack("<Q", len(header)) + header + content[8 + length :]
    _looked_at(tmp_path_factory.getbasetemp() / "changed", changed)
