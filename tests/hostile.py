"""Files that would run code, or fill the memory, if they were loaded as they ask to be.

Each is made at test time. Where it can, its payload touches a file: that file is the proof that
it ran.
"""

from __future__ import annotations

import builtins
import io
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Write = Callable[[Path, Path], None]  # where to, and the proof


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments, *([state] if state is not None else []))

    def __reduce__(self) -> Any:
        return self.reduced


def code(proof: Path) -> str:
    return f"open({str(proof)!r}, 'w').close()"


PAYLOADS: dict[str, Callable[[Path], Any]] = {
    "os.system": lambda proof: Calls(os.system, f"touch {proof}"),
    "eval": lambda proof: Calls(eval, code(proof)),
    "exec": lambda proof: Calls(exec, code(proof)),
    "compile": lambda proof: Calls(exec, Calls(compile, code(proof), "x", "exec")),
    "subprocess": lambda proof: Calls(subprocess.check_call, ["touch", str(proof)]),
    "import": lambda proof: Calls(builtins.__import__, "antigravity"),
    "torch.load": lambda proof: Calls(torch.load, str(proof.with_suffix(".inner"))),
    "getattr chain": lambda proof: Calls(
        getattr(os, "system"),  # noqa: B009 - so that the pickle holds the chain
        Calls(str.join, "", ["touch ", str(proof)]),
    ),
    "getattr": lambda proof: Calls(getattr, Calls(builtins.__import__, "os"), "system"),
    "open": lambda proof: Calls(open, str(proof), "w"),
    "nested": lambda proof: Calls(dict, [("k", Calls(list, [Calls(os.system, f"touch {proof}")]))]),
    "in the state": lambda proof: Calls(dict, state={"x": Calls(os.system, f"touch {proof}")}),
    "as a key": lambda proof: {Calls(os.system, f"touch {proof}"): 1},
    "function, not called": lambda proof: os.system,
}


def ckpt(payload: Callable[[Path], Any], *, legacy: bool) -> Write:
    def write(path: Path, proof: Path) -> None:
        torch.save({"inner": payload(proof)}, proof.with_suffix(".inner"))
        content = {"state_dict": {"x": torch.zeros(1)}, "bomb": payload(proof)}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)

    return write


def plain_pickle(path: Path, proof: Path) -> None:
    path.write_bytes(pickle.dumps(PAYLOADS["os.system"](proof)))


def instance_opcode(path: Path, proof: Path) -> None:
    """The old way to make an object, which names its class in the opcode itself."""
    _zip(path, b"(S'touch " + str(proof).encode() + b"'\nios\nsystem\n.")


def build_opcode(path: Path, proof: Path) -> None:
    """Sets __setstate__ of a harmless object to a function, then gives it a state."""
    touch = f"touch {proof}".encode()
    _zip(
        path,
        b"cargparse\nNamespace\n)\x81}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb"
        b"X" + struct.pack("<I", len(touch)) + touch + b"b.",
    )


def two_pickles(path: Path, proof: Path) -> None:
    """An archive with a harmless and a hostile content under one name."""
    good = io.BytesIO()
    torch.save({"state_dict": {}}, good)
    with zipfile.ZipFile(good) as archive:
        harmless = archive.read("archive/data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", harmless)
        archive.writestr("other/data.pkl", pickle.dumps(PAYLOADS["os.system"](proof)))


def _zip(path: Path, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", b"3\n")


def zip_bomb(path: Path, _: Path) -> None:
    """A megabyte that unpacks to one gigabyte."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w") as member,
    ):
        for _number in range(1024):
            member.write(bytes(2**20))


def tensor_pickle(kind: str, count: str, shape: str, first: str = "0") -> bytes:
    """A state dict of one tensor; the arguments are opcodes."""
    return (
        b"}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        b"ctorch\n"
        + kind.encode()
        + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + count.encode()
        + b"tQ"
        + first.encode()
        + shape.encode()
        + b"(I1\nt\x89}tRs."
    )


def absurd_tensor(path: Path, _: Path) -> None:
    """Claims ten terabytes."""
    _zip(path, tensor_pickle("FloatStorage", "L10000000000000L\n", "(L10000000000000L\nt"))


def negative_tensor(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        pickled = tensor_pickle("FloatStorage", "I4\n", "(I4\nt", first="I-4\n")
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(16))


def absurd_memo(path: Path, _: Path) -> None:
    """A memo index for which Python's own unpickler allocates 32 GB."""
    _zip(path, b"\x80\x02}r\xff\xff\xff\xff.")


def absurd_bytes(path: Path, _: Path) -> None:
    """Announces bytes that are not there; Python's own unpickler makes room for them."""
    _zip(path, b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".")


def absurd_nesting(path: Path, _: Path) -> None:
    _zip(path, b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")


def shared_nesting(path: Path, _: Path) -> None:
    """Dicts of dicts of the same dict: small as written, immense if they are copied."""
    content: Any = {}
    for _level in range(5):
        content = {str(i): content for i in range(200)}
    _zip(path, pickle.dumps({"state_dict": content}))


def no_stop(path: Path, _: Path) -> None:
    _zip(path, b"\x80\x02}" * 1000)


def garbage(path: Path, _: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


def nothing(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def half_of_a_zip(path: Path, _: Path) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])


CORPUS: dict[str, Write] = {
    **{f"{name}, zip": ckpt(payload, legacy=False) for name, payload in PAYLOADS.items()},
    **{f"{name}, legacy": ckpt(payload, legacy=True) for name, payload in PAYLOADS.items()},
    **{
        write.__name__: write
        for write in (
            plain_pickle,
            instance_opcode,
            build_opcode,
            two_pickles,
            zip_bomb,
            absurd_tensor,
            negative_tensor,
            absurd_memo,
            absurd_bytes,
            absurd_nesting,
            shared_nesting,
            no_stop,
            garbage,
            nothing,
            half_of_a_zip,
        )
    },
}
