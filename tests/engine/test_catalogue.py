"""Models are found in the original's layout, and named in every way people name them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runai.engine.catalogue import Catalogue
from runai.errors import ModelNotFound


def put(base: Path, *names: str) -> Path:
    """Empty checkpoints, and diffusers folders for names that end in a slash."""
    for name in names:
        path = base / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            (path / "model_index.json").write_text("{}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return put(
        tmp_path / "stablediffusion",
        "runwayml/stable-diffusion-v1-5/",
        "runwayml/stable-diffusion-inpainting/",
        "stabilityai/stable-diffusion-2-1-base/",
        "openai/clip-vit-large-patch14/",
        "v1/anime.ckpt",
        "v1/anime.safetensors",
        "v1/photo.safetensor",
        "v1/folder/",
        "v1/notes.txt",
        "v1/empty-folder/x",
        "v2/photo.ckpt",
        "v3/other.ckpt",
        "loose.ckpt",
    )


def test_the_layout_of_the_original_is_found(base: Path) -> None:
    found = {e.name: (e.version, e.format) for e in Catalogue([base]).entries()}
    assert found == {
        "runwayml/stable-diffusion-v1-5": ("v1", "diffusers"),
        "runwayml/stable-diffusion-inpainting": ("v1", "diffusers"),
        "stabilityai/stable-diffusion-2-1-base": ("v2", "diffusers"),
        "v1/anime": ("v1", "safetensors"),
        "v1/folder": ("v1", "diffusers"),
        "v1/photo": ("v1", "safetensors"),
        "v2/photo": ("v2", "ckpt"),
    }


def test_the_best_format_of_a_model_is_taken(tmp_path: Path) -> None:
    catalogue = Catalogue([put(tmp_path, "v1/a.ckpt", "v1/a.safetensors")])
    assert catalogue.find("a").format == "safetensors"
    put(tmp_path, "v1/a/")
    assert catalogue.find("a").format == "diffusers"


@pytest.mark.parametrize("name", ["v1/anime", "anime", "anime.safetensors", "v1/anime.safetensors"])
def test_a_model_is_found_by_path_and_by_stem(base: Path, name: str) -> None:
    catalogue = Catalogue([base])
    assert catalogue.find(name).path == base / "v1" / "anime.safetensors"
    assert catalogue.find(f"{base}/v1/anime.safetensors").name == "v1/anime"


def test_a_model_may_be_named_by_an_ending_that_a_better_format_has_replaced(base: Path) -> None:
    catalogue = Catalogue([base])
    assert catalogue.find("v1/anime.ckpt").format == "safetensors"
    assert catalogue.find(f"{base}/v1/anime.ckpt").format == "safetensors"


def test_a_file_whose_name_cannot_be_sent_is_passed_over(base: Path) -> None:
    os.close(os.open(os.fsencode(base) + b"/v1/caf\xe9.ckpt", os.O_CREAT))
    assert all(entry.name.isprintable() for entry in Catalogue([base]).entries())


def test_odd_things_in_the_folder_are_passed_over(base: Path) -> None:
    before = [entry.name for entry in Catalogue([base]).entries()]
    (base / "v1" / "loop.ckpt").symlink_to("loop.ckpt")
    os.mkfifo(base / "v1" / "pipe.ckpt")
    (base / "v1" / "gone.ckpt").symlink_to("nowhere.ckpt")
    assert [entry.name for entry in Catalogue([base]).entries()] == before


def test_a_name_that_means_two_models_needs_the_version(base: Path) -> None:
    catalogue = Catalogue([base])
    assert catalogue.find("photo", "v2").name == "v2/photo"
    with pytest.raises(ModelNotFound, match="several") as caught:
        catalogue.find("photo")
    assert "v1/photo" in caught.value.hint and "v2/photo" in caught.value.hint


def test_an_unknown_name_lists_the_nearest(base: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        Catalogue([base]).find("v1/anme")
    assert "v1/anime" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["../loose.ckpt", "/etc/passwd", "v1/../loose", "v1/notes.txt", "loose"]
)
def test_nothing_outside_the_layout_can_be_named(base: Path, name: str) -> None:
    with pytest.raises(ModelNotFound):
        Catalogue([base]).find(name)


def test_a_link_that_leaves_the_base_path_is_not_followed(base: Path, tmp_path: Path) -> None:
    outside = put(tmp_path / "elsewhere", "secret.ckpt") / "secret.ckpt"
    (base / "v1" / "link.ckpt").symlink_to(outside)
    (base / "v1" / "inside.ckpt").symlink_to(base / "loose.ckpt")
    names = [e.name for e in Catalogue([base]).entries()]
    assert "v1/link" not in names
    assert "v1/inside" in names


@pytest.mark.parametrize(
    ("version", "task", "name"),
    [
        (None, "txt2img", "runwayml/stable-diffusion-v1-5"),
        ("v1", "img2img", "runwayml/stable-diffusion-v1-5"),
        ("v1", "inpaint", "runwayml/stable-diffusion-inpainting"),
        ("v1", "outpaint", "runwayml/stable-diffusion-inpainting"),
        ("v2", "txt2img", "stabilityai/stable-diffusion-2-1-base"),
        ("v2", "inpaint", "stabilityai/stable-diffusion-2-1-base"),
    ],
)
def test_the_default_is_the_versions_base_model(
    base: Path, version: str | None, task: str, name: str
) -> None:
    assert Catalogue([base]).default(version, task).name == name  # type: ignore[arg-type]


def test_the_example_is_the_last_resort(tmp_path: Path) -> None:
    example = put(tmp_path / "example", "v1/shapes/")
    own = tmp_path / "own"
    catalogue = Catalogue([own], example)
    assert catalogue.default().example
    put(own, "v1/mine.ckpt")
    assert catalogue.default().name == "v1/mine"
    assert catalogue.find("shapes").example


def test_without_any_model_the_error_says_where_to_put_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        Catalogue([tmp_path]).default()
    assert "v1/" in caught.value.hint


def test_a_home_directory_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path, "sd/v1/a.ckpt")
    assert [e.name for e in Catalogue([Path("~/sd")]).entries()] == ["v1/a"]
