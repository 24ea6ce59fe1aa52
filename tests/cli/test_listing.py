"""What a hub says that a repository holds: what is taken, what is left out, what is an error."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub.hf_api import ModelInfo

from runai.cli.fetch.listing import RemoteFile, Repository, read, understood
from runai.errors import FetchFailed

BLOB, SHA256 = "b" * 40, "d" * 64
LFS = {"sha256": SHA256, "size": 9, "pointerSize": 130}
ROW: dict[str, Any] = {"rfilename": "a.safetensors", "size": 9, "blobId": BLOB}
SAID: dict[str, Any] = {"id": "o/n", "sha": "c" * 40, "siblings": [ROW]}


def repository(said: dict[str, Any]) -> Repository:
    with understood("o/n"):
        return read("o/n", ModelInfo(**said))  # type: ignore[no-untyped-call]


def test_large_files_are_known_by_another_hash() -> None:
    rows = [ROW, ROW | {"rfilename": "v/b.ckpt", "lfs": LFS}]
    assert repository(SAID | {"siblings": rows}) == Repository(
        "o/n",
        "c" * 40,
        (RemoteFile("a.safetensors", 9, BLOB, None), RemoteFile("v/b.ckpt", 9, "", SHA256)),
    )


@pytest.mark.parametrize(
    "other",
    [
        {"sha": None},
        {"sha": "main"},
        {"sha": "/../../../ab" + "c" * 28},
        {"sha": "c" * 39 + "\n"},
        {"sha": "c" * 41},
        {"siblings": None},
        {"siblings": 7},
        {"siblings": ["a"]},
        {"siblings": [{}]},
        {"inferenceProviderMapping": 7},
    ],
    ids=str,
)
def test_a_listing_of_another_form_is_an_error(other: dict[str, Any]) -> None:
    with pytest.raises(FetchFailed, match="about o/n cannot be understood"):
        repository(SAID | other)


@pytest.mark.parametrize(
    "other",
    [
        {"rfilename": 7},
        {"rfilename": None},
        {"size": "x"},
        {"size": -5},
        {"size": 1.5},
        {"size": True},
        {"size": None},
        {"blobId": "no hash"},
        {"blobId": None},
        {"lfs": {"sha256": SHA256}},
        {"lfs": LFS | {"sha256": "d" * 63}},
    ],
    ids=str,
)
def test_so_is_one_with_such_a_file(other: dict[str, Any]) -> None:
    with pytest.raises(FetchFailed, match="about o/n cannot be understood"):
        repository(SAID | {"siblings": [ROW, ROW | other]})


@pytest.mark.parametrize(
    "name",
    [
        "../../a.safetensors",
        "v/../../a",
        "..",
        "/tmp/a.safetensors",
        "v//a",
        "v/",
        "./a",
        "a\0b",
        "a\n\x1b[31mb",
        "\u202ea",
        "\ud800",
        "a\\b",
        "a" * 241,
        "ä" * 121,
        "a/" * 500 + "a",
        "",
    ],
    ids=ascii,
)
def test_a_file_whose_name_cannot_be_one_here_is_left_out(name: str) -> None:
    found = repository(SAID | {"siblings": [ROW, ROW | {"rfilename": name}]})
    assert [file.name for file in found.files] == ["a.safetensors"] and found.odd == (name,)


@pytest.mark.parametrize("name", ["a" * 240, "v/ä b.ckpt", "...", "-x", "v/.hidden"])
def test_any_other_name_is_taken(name: str) -> None:
    assert repository(SAID | {"siblings": [ROW | {"rfilename": name}]}).files[0].name == name
