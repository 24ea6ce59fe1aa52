"""What a single file is. Its content decides, not its ending.

Rules: nothing is ever run, nothing but a file is ever opened (opening a pipe could wait
forever), and whatever is wrong is an answer, not an exception: one odd file must not take all
others out of the listing.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from runai.engine import pickles
from runai.engine.detection import few_step_loras, tiny_autoencoders
from runai.engine.detection.finding import FAULTS, Finding, broken
from runai.engine.detection.header import header_of, is_safetensors
from runai.engine.detection.metadata import distillation_of
from runai.engine.detection.tensors import identify_tensors
from runai.errors import ModelBroken

# how files begin that often lie where a model should be
_STARTS = (
    (b"<", "it is a web page: the download went wrong"),
    (b"version https://git-lfs", "it is only a pointer to the file, as Git LFS leaves them"),
    (b"GGUF", "it is a GGUF file, which is not supported"),
)
_TORCH_STARTS = (b"PK\x03\x04", b"\x80")


def identify(path: Path) -> Finding:
    """What a file is. Costs a few ms, for torch's files a few dozen; never raises."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return broken("it is not a file")
            found = _identify(file, status.st_size, path.name)
    except OSError as error:
        return broken(f"it cannot be read: {error.strerror}")
    except FAULTS:
        return broken("it is damaged")
    if found.tiny:
        return replace(found, arch=found.arch or tiny_autoencoders.named_for(path))
    return replace(found, distillation=found.distillation or _named(found, path))


def _named(found: Finding, path: Path) -> str | None:
    """The distillation that its name speaks of."""
    if found.kind == "lora":
        return few_step_loras.kind_of(few_step_loras.own_name(path))
    return distillation_of(path.stem) if found.kind == "model" else None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _identify(file: BinaryIO, size: int, name: str) -> Finding:
    start = file.read(32)
    file.seek(0)
    if not start:
        return broken("it is empty")
    for mark, reason in _STARTS:
        if start.startswith(mark):
            return broken(reason)
    if is_safetensors(start):
        return _safetensors(file, size, name)
    if start.startswith(_TORCH_STARTS):
        return _torch(file)
    return broken("it is not a model file, or a damaged one")


def _safetensors(file: BinaryIO, size: int, name: str) -> Finding:
    try:
        return identify_tensors(*header_of(file, size, name))
    except ModelBroken as error:
        return broken(error.message.removeprefix(f"{name} ").removesuffix("."))


def _torch(file: BinaryIO) -> Finding:
    try:
        content = pickles.look(file)
    except pickles.Unsafe as error:
        reason = f"it refers to {error}: loading it could run code"
        return Finding(reason=reason, fault="unsafe", format="ckpt")
    except pickles.Damaged as error:
        return broken(str(error))
    # a textual inversion of the web UI's has its vectors, by the words they stand for, in here
    top = pickles.mapping(content)
    vectors = pickles.state_dict(top.get("string_to_param"))
    tensors = {"emb_params": next(iter(vectors.values()))} if vectors else pickles.state_dict(top)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    # plain values only: what is nested could be endless when it is written out
    beside = {name: value for name, value in top.items() if isinstance(value, (str, int, float))}
    return replace(identify_tensors(shapes, {}, beside), format="ckpt")
