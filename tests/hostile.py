"""Files that would run code, or fill the memory, if they were loaded as they ask to be.

Each is made at test time. Where it can, its payload touches a file: that file is the proof that
it ran. Every entrance for models has to refuse all of them.
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
    "popen": lambda proof: Calls(subprocess.Popen, ["touch", str(proof)]),
    "import": lambda proof: Calls(builtins.__import__, "antigravity"),
    "torch.load": lambda proof: Calls(torch.load, str(proof.with_suffix(".inner"))),
    "torch.hub": lambda proof: Calls(torch.hub.load, str(proof), "x"),
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
    "deep in the weights": lambda proof: {"a": [({"x": Calls(os.system, f"touch {proof}")},)]},
}
# every way in which opcodes can come by something to call, or name it; {} is the proof's path
OPCODES = {
    "INST": b"(S'touch {}'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch {}'\no.",
    "GLOBAL and REDUCE": b"cos\nsystem\n(S'touch {}'\ntR.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",
    "an extension's code": b"\x82\x01.",
    "two bytes of it": b"\x83\x01\x00.",
    "four bytes of it": b"\x84\x01\x00\x00\x00.",
    "NEWOBJ_EX": b"\x80\x04cos\nsystem\n)}\x92.",
    "a persistent id": b"Pcos\nsystem\n.",
    "system, named": b"cos\nsystem\n.",
    "eval, named": b"cbuiltins\neval\n.",
    "getattr, named": b"cbuiltins\ngetattr\n.",
    "torch.load, named": b"ctorch\nload\n.",
    "a name that is cut": b"ccollections\nOrderedDict\x00.",
}


def ckpt(payload: Callable[[Path], Any], *, legacy: bool) -> Write:
    def write(path: Path, proof: Path) -> None:
        torch.save({"inner": payload(proof)}, proof.with_suffix(".inner"))
        content = {"state_dict": {"x": torch.zeros(1)}, "bomb": payload(proof)}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)

    return write


def plain_pickle(path: Path, proof: Path) -> None:
    path.write_bytes(pickle.dumps(PAYLOADS["os.system"](proof)))


def program(raw: bytes) -> Write:
    return lambda path, proof: archive(path, raw.replace(b"{}", str(proof).encode()))


def build_opcode(path: Path, proof: Path) -> None:
    """Sets __setstate__ of a harmless object to a function, then gives it a state."""
    touch = f"touch {proof}".encode()
    archive(
        path,
        b"cargparse\nNamespace\n)\x81}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb"
        b"X" + struct.pack("<I", len(touch)) + touch + b"b.",
    )


def two_pickles(path: Path, proof: Path) -> None:
    """An archive with a harmless and a hostile content under one name."""
    good = io.BytesIO()
    torch.save({"state_dict": {}}, good)
    with zipfile.ZipFile(good) as made:
        harmless = made.read("archive/data.pkl")
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("archive/data.pkl", harmless)
        made.writestr("other/data.pkl", pickle.dumps(PAYLOADS["os.system"](proof)))


def archive(path: Path, content: bytes, storage: bytes | None = None) -> None:
    """torch's form of an archive around any pickle."""
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("archive/data.pkl", content)
        made.writestr("archive/version", b"3\n")
        if storage is not None:
            made.writestr("archive/data/0", storage)


def zip_bomb(path: Path, _: Path) -> None:
    """A megabyte that unpacks to one gigabyte."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made,
        made.open("archive/data.pkl", "w") as member,
    ):
        for _number in range(1024):
            member.write(bytes(2**20))


def tensor_pickle(kind: str, count: int, shape: int, first: int = 0) -> bytes:
    """A state dict of one tensor of one dimension."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)

    return (
        b"}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        b"ctorch\n" + kind.encode() + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + number(count) + b"tQ" + number(first) + number(shape) + b"\x85K\x01\x85\x89}tRs."
    )  # fmt: skip


def absurd_tensor(path: Path, _: Path) -> None:
    """Claims forty terabytes."""
    archive(path, tensor_pickle("FloatStorage", 10**13, 10**13), bytes(16))


def negative_tensor(path: Path, _: Path) -> None:
    archive(path, tensor_pickle("FloatStorage", 4, 4, first=-4), bytes(16))


def hollow_storage(path: Path, _: Path) -> None:
    """An archive whose table of members claims forty terabytes, too."""
    archive(path, tensor_pickle("FloatStorage", 10**13, 10**9), bytes(16))
    content = path.read_bytes()
    entry = content.rindex(b"PK\x01\x02")
    sizes = struct.pack("<II", 2**32 - 2, 2**32 - 2)
    path.write_bytes(content[: entry + 20] + sizes + content[entry + 28 :])


def no_storage(path: Path, _: Path) -> None:
    archive(path, tensor_pickle("FloatStorage", 4, 4))


def absurd_memo(path: Path, _: Path) -> None:
    """A memo index for which Python's own unpickler allocates 32 GB."""
    archive(path, b"\x80\x02}r\xff\xff\xff\xff.")


def absurd_bytes(path: Path, _: Path) -> None:
    """Announces bytes that are not there; Python's own unpickler makes room for them."""
    archive(path, b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".")


def lying_length(path: Path, _: Path) -> None:
    """A text of 2 ** 60 bytes."""
    archive(path, b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x.")


def lying_number(path: Path, _: Path) -> None:
    """A whole number of a million digits, to be hashed and written out."""
    archive(path, b"\x80\x02}\x8b" + struct.pack("<I", 10**6) + b"\x01" * 10**6 + b"K\x01s.")


def cut_archive(path: Path, _: Path) -> None:
    archive(path, b"\x80\x02}" + b"X" + struct.pack("<I", 50) + b"short.")


def too_large(path: Path, _: Path) -> None:
    """More of a description than any model has."""
    archive(path, bytes(40 * 2**20))


def absurd_nesting(path: Path, _: Path) -> None:
    archive(path, b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")


def shared_nesting(path: Path, _: Path) -> None:
    """Dicts of dicts of the same dict: small as written, immense if they are copied."""
    content: Any = {}
    for _level in range(5):
        content = {str(i): content for i in range(200)}
    archive(path, pickle.dumps({"state_dict": content}))


def no_stop(path: Path, _: Path) -> None:
    archive(path, b"\x80\x02}" * 1000)


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
    **{name: program(raw) for name, raw in OPCODES.items()},
    **{
        write.__name__: write
        for write in (
            plain_pickle,
            build_opcode,
            two_pickles,
            zip_bomb,
            absurd_tensor,
            negative_tensor,
            hollow_storage,
            no_storage,
            lying_length,
            lying_number,
            cut_archive,
            too_large,
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
