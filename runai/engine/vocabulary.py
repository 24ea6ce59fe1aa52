"""CLIP's vocabulary: which word is which of 49,408 numbers.

No single-file checkpoint holds it, and all Stable Diffusion models share it. It is taken from
the first place under the base paths that has it sound: the CLIP folder, any base model's
tokenizer, or OpenAI's own file (openai/CLIP, clip/bpe_simple_vocab_16e6.txt.gz), known by its
hash. A vocabulary that is missing or damaged would give pictures of nothing in particular
without any error, so every one is made to read a known sentence before it is used.

Two conventions for what fills up a prompt: OpenAI's encoder takes the end token, OpenCLIP's
token 0, which is "!". No torch.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runai.errors import ModelBroken, VocabularyMissing

TOKENS = 49408
LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
SENTENCE = "a photo of a cat"
SENTENCE_IDS = [49406, 320, 1125, 539, 320, 2368, 49407]
BPE_NAME = "bpe_simple_vocab_16e6.txt.gz"
BPE_BYTES = 1_356_917
BPE_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
FOLDERS = ("openai/clip-vit-large-patch14", "CLIP")

Merges = list[tuple[str, str]]


def find(base_paths: Sequence[Path], padding: str, tokens: int = TOKENS) -> Any:
    """A tokenizer with the vocabulary found under the base paths; `padding`: a token.

    Raises VocabularyMissing, which says what is missing or damaged and what to do.
    """
    faults: list[str] = []
    for place in _places(base_paths):
        try:
            return _read(place, padding, tokens)
        except ModelBroken as error:  # another place may have a sound one
            faults.append(error.message)
    raise VocabularyMissing(
        " ".join(["This model needs the CLIP vocabulary, which is not there.", *faults[:1]])
    )


def read(folder: Path, **arguments: Any) -> Any:
    """The tokenizer in a folder, with its own settings. ModelBroken if it is unusable."""
    from transformers import CLIPTokenizer

    if not _holds_tokenizer(folder):
        raise ModelBroken(f"There is no vocabulary in {folder.parent.name}/{folder.name}.")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True, **arguments)
    except Exception as error:
        raise ModelBroken(f"The vocabulary in {folder} cannot be read: {error}.") from error
    check(tokenizer, str(folder))
    return tokenizer


def check(tokenizer: Any, name: str) -> None:
    """ModelBroken unless a tokenizer of full size reads the known sentence as CLIP does."""
    if len(tokenizer) < 3:  # what transformers makes of files that are not there
        raise ModelBroken(f"The vocabulary in {name} is empty.")
    if len(tokenizer) >= TOKENS and tokenizer(SENTENCE).input_ids != SENTENCE_IDS:
        raise ModelBroken(f"The vocabulary in {name} is damaged.")


def from_bpe(data: bytes) -> tuple[dict[str, int], Merges]:
    """The vocabulary and the merges in OpenAI's file. ModelBroken if it is not that file.

    Source: openai/CLIP, clip/simple_tokenizer.py: first the 256 bytes as printable letters,
    then the same at the end of a word, then one token for each merge, then start and end.
    """
    if hashlib.sha256(data).hexdigest() != BPE_SHA256:
        raise ModelBroken(f"{BPE_NAME} is not the file that OpenAI published.")
    lines = gzip.decompress(data).decode().split("\n")
    letters = _byte_letters()
    count = TOKENS - 2 * len(letters) - 2
    merges = [(pair[0], pair[1]) for pair in (line.split() for line in lines[1 : count + 1])]
    words = [*letters, *(f"{c}</w>" for c in letters), *("".join(m) for m in merges), START, END]
    return {word: number for number, word in enumerate(words)}, merges


def as_files(data: bytes) -> dict[str, str]:
    """OpenAI's file as the files of a tokenizer folder: content by name."""
    vocabulary, merges = from_bpe(data)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH}
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""]),
        "tokenizer_config.json": json.dumps(settings),
    }


def _byte_letters() -> list[str]:
    """A printable letter for every byte: those that are printable in Latin-1, then others."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(0x100, 0x100 + others))]


def _places(base_paths: Sequence[Path]) -> Iterator[Path]:
    """Folders of tokenizers and OpenAI's file, the dedicated ones first."""
    for base in base_paths:
        homes = [base, *(base / folder for folder in FOLDERS)]
        own = [home / name for home in homes for name in ("", "tokenizer", BPE_NAME)]
        theirs = sorted((*base.glob("*/tokenizer"), *base.glob("*/*/tokenizer")))
        for place in (*own, *theirs):
            if place.is_file() if place.suffix == ".gz" else _holds_tokenizer(place):
                yield place


def _holds_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json"))


def _read(place: Path, padding: str, tokens: int) -> Any:
    from transformers import CLIPTokenizer

    if place.suffix == ".gz":
        vocabulary, merges = from_bpe(_bytes(place))
        tokenizer = CLIPTokenizer(vocabulary, merges, pad_token=padding, model_max_length=LENGTH)
        check(tokenizer, str(place))
    else:
        tokenizer = read(place, pad_token=padding, model_max_length=LENGTH)
    if len(tokenizer) != tokens:
        raise ModelBroken(f"The vocabulary in {place} has {len(tokenizer)} tokens, not {tokens}.")
    return tokenizer


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(BPE_BYTES + 1)  # one more: then the hash is another
    except OSError as error:
        raise ModelBroken(f"{path} cannot be read: {error}.") from error
