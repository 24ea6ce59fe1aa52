"""torch's files are read for what they hold; what they say is never done."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import pickletools
import struct
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import headers
import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runai.engine.detection import identify, pickle_machine
from runai.engine.detection.pickle_machine import Malformed, Unsafe

FORMS = pytest.mark.parametrize("zipped", [True, False])


def save(path: Path, content: Any, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def weights(name: str) -> dict[str, torch.Tensor]:
    """Tensors of the right shapes, all one number, so that they take no room."""
    rows = headers.rows(name)
    one = torch.zeros((), dtype=torch.float16)
    return {key: one.expand(shape) for key, (_, shape) in rows.items()}


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


# --- hostile -----------------------------------------------------------------------------


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def payloads(target: Path) -> dict[str, Any]:
    command = f"touch {target}"
    return {
        "system": Runs(os.system, command),
        "popen": Runs(subprocess.Popen, ["touch", str(target)]),
        "eval": Runs(eval, f"open({str(target)!r}, 'w')"),
        "exec": Runs(exec, f"open({str(target)!r}, 'w')"),
        "getattr": Runs(getattr, Runs(__import__, "os"), "system"),
        "nested": {"state_dict": {"deep": [({"x": Runs(os.system, command)},)]}},
        "hub": Runs(torch.hub.load, str(target), "x"),
        "load": Runs(torch.load, str(target)),
    }


@FORMS
@pytest.mark.parametrize("name", payloads(Path()))
def test_a_hostile_pickle_is_refused_and_its_payload_never_runs(
    tmp_path: Path, name: str, zipped: bool
) -> None:
    target = tmp_path / "it-ran"
    content = {**weights("lora-sd1"), "extra": payloads(target)[name]}
    finding = identify(save(tmp_path / "m.ckpt", content, zipped=zipped))
    assert finding.fault == "unsafe" and "could run code" in finding.reason
    assert not target.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_of_any_protocol_is_refused(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "it-ran"
    raw = pickle.dumps(Runs(os.system, f"touch {target}"), protocol)
    with pytest.raises(Unsafe, match="system"):
        pickle_machine.read(io.BytesIO(raw))
    (tmp_path / "m.ckpt").write_bytes(raw)
    assert identify(tmp_path / "m.ckpt").kind is None
    assert not target.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"(S'touch x'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch x'\no.",  # OBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",  # STACK_GLOBAL
        b"\x82\x01.",  # an extension's code
        b"cos\nsystem.",  # named only
        b"cbuiltins\neval.",
        b"cbuiltins\ngetattr.",
        b"ctorch\nload.",
        b"ccollections\nOrderedDict\x00.",
    ],
)
def test_every_way_to_import_something_is_closed(raw: bytes) -> None:
    with pytest.raises((Unsafe, Malformed)):
        pickle_machine.read(io.BytesIO(raw))


def test_a_pickle_that_would_take_forever_ends_early() -> None:
    # a hundred times a pair of the last: as a key it would be hashed 2 ** 100 times
    deep = b"\x80\x02)" + b"2\x86" * 100
    start = time.thread_time()
    pickle_machine.read(io.BytesIO(deep + b"}" + b"(\x8a\x01\x01K\x01u0."))
    with pytest.raises(Malformed, match="steps"):
        pickle_machine.read(io.BytesIO(b"N0" * 10**5 + b"."), max_steps=1000)
    keyed = b"\x80\x02}" + b")" + b"2\x86" * 100 + b"K\x01s."
    assert pickle_machine.read(io.BytesIO(keyed)) == {}
    assert time.thread_time() - start < 2


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


@settings(max_examples=300)
@given(st.data())
def test_no_pickle_breaks_the_machine(data: st.DataObject) -> None:
    """Random programs of real opcodes: an answer or one of two errors."""
    codes = [op.code.encode("latin-1") for op in pickletools.opcodes]
    steps = st.one_of(st.sampled_from(codes), st.binary(max_size=4))
    raw = b"".join(data.draw(st.lists(steps, max_size=60))) + b"."
    try:
        pickle_machine.read(io.BytesIO(raw), max_steps=1000)
    except (Malformed, Unsafe) as error:
        assert str(error)


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


def test_a_length_that_lies_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.")
    assert identify(path).fault == "broken"
