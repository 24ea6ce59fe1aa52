"""Models are found in the layouts people have, and named in every way people name them."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import headers
import pytest

from runai.engine.archs import ARCHS
from runai.engine.catalogue import Catalogue
from runai.errors import ModelBroken, ModelNotFound, ModelUnsafe, ModelUnsupported


def folder(path: Path, arch: str = "sd1", **scheduler: Any) -> Path:
    """A diffusers folder of nothing but configurations."""
    row = ARCHS[arch]
    texts = {"text_encoder": ["transformers", "CLIPTextModel"]}
    contents = {
        "model_index.json": {"_class_name": "StableDiffusionPipeline", **texts},
        "unet/config.json": row.unet,
        "scheduler/scheduler_config.json": {**row.scheduler, **scheduler},
    }
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(content))
    return path


def put(base: Path, files: dict[str, str]) -> Path:
    """Files by name, each with the header of an arch; a name ending in a slash is a folder."""
    for name, what in files.items():
        if name.endswith("/"):
            folder(base / name, what)
        else:
            headers.write(base / name, headers.rows(what))
    return base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = put(
        tmp_path / "stablediffusion",
        {
            "runwayml/stable-diffusion-v1-5/": "sd1",
            "runwayml/stable-diffusion-inpainting/": "sd1-inpaint",
            "stabilityai/stable-diffusion-2-1-base/": "sd2",
            "v1/anime.safetensors": "sd1",
            "v1/photo.safetensor": "sd1",
            "v1/folder/": "sd1",
            "v2/photo.safetensors": "sd2-inpaint",
            "xl/big.safetensors": "sdxl",
            "xl/refine.safetensors": "sdxl-refiner",
            "v3/other.safetensors": "sd1",
            "loose.safetensors": "sd1",
            "lora/ink.safetensors": "lora-sd1",
            "vae/soft.safetensors": "vae",
        },
    )
    (base / "v1" / "notes.txt").touch()
    (base / "v1" / "empty-folder").mkdir()
    return base


def models(catalogue: Catalogue) -> dict[str, tuple[str, str, str]]:
    return {e.name: (e.version, e.arch, e.format) for e in catalogue.entries("model")}


def test_the_layout_of_the_original_is_found(base: Path) -> None:
    assert models(Catalogue([base])) == {
        "loose": ("v1", "sd1", "safetensors"),
        "runwayml/stable-diffusion-v1-5": ("v1", "sd1", "diffusers"),
        "runwayml/stable-diffusion-inpainting": ("v1", "sd1-inpaint", "diffusers"),
        "stabilityai/stable-diffusion-2-1-base": ("v2", "sd2", "diffusers"),
        "v1/anime": ("v1", "sd1", "safetensors"),
        "v1/folder": ("v1", "sd1", "diffusers"),
        "v1/photo": ("v1", "sd1", "safetensors"),
        "v2/photo": ("v2", "sd2-inpaint", "safetensors"),
        "xl/big": ("xl", "sdxl", "safetensors"),
        "xl/refine": ("xl", "sdxl-refiner", "safetensors"),
    }


@pytest.fixture
def webui(tmp_path: Path) -> Path:
    return put(
        tmp_path / "webui",
        {
            "models/Stable-diffusion/one.safetensors": "sd1",
            "models/Stable-diffusion/deep/er/two.safetensors": "sdxl",
            "models/Lora/ink.safetensors": "lora-sdxl",
            "models/LyCORIS/loha.safetensors": "loha-sd1",
            "models/VAE/soft.safetensors": "vae",
            "models/ControlNet/canny.safetensors": "controlnet",
            "embeddings/other.safetensors": "vae",
        },
    )


@pytest.mark.parametrize("start", ["models", "", "models/Stable-diffusion"])
def test_the_web_uis_tree_is_found_as_it_is(webui: Path, start: str) -> None:
    catalogue = Catalogue([webui / start])
    found = {(e.kind, e.name.rpartition("/")[2], e.arch) for e in catalogue.entries()}
    both = {("model", "one", "sd1"), ("model", "two", "sdxl")}
    if start == "models/Stable-diffusion":
        assert found == both
        assert catalogue.find("deep/er/two.safetensors").arch == "sdxl"
        return
    assert found == both | {
        ("lora", "ink", "sdxl"),
        ("lora", "loha", "sd1"),
        ("vae", "soft", ""),
        ("vae", "other", ""),
    }
    assert [(u.name, u.reason) for u in catalogue.unusable()] == [
        ("ControlNet/canny.safetensors", "it is a ControlNet")
    ]
    assert catalogue.find("embeddings/other", kind="vae").path.parent == webui / "embeddings"


def test_the_originals_folders_may_lie_in_the_web_uis(tmp_path: Path) -> None:
    base = put(
        tmp_path / "models" / "Stable-diffusion",
        {"v1/a.safetensors": "sd1", "v2/b.safetensors": "sd2", "c.safetensors": "sd1"},
    )
    assert set(models(Catalogue([base]))) == {"v1/a", "v2/b", "c"}


def test_of_several_base_paths_the_first_counts(tmp_path: Path) -> None:
    first = put(tmp_path / "first", {"v1/a.safetensors": "sd1"})
    second = put(tmp_path / "second", {"v1/a.safetensors": "sd1", "v1/b.safetensors": "sd1"})
    catalogue = Catalogue([first, second])
    assert [e.base for e in catalogue.entries()] == [first, second]
    assert catalogue.find("v1/a").path == first / "v1" / "a.safetensors"


def test_the_best_format_of_a_model_is_taken(tmp_path: Path) -> None:
    import torch

    shapes = {key: torch.zeros(shape[1]) for key, shape in headers.rows("lora-sd1").items()}
    base = put(tmp_path, {"v1/a.safetensors": "lora-sd1"})
    torch.save(shapes, base / "v1" / "a.ckpt")
    torch.save(shapes, base / "v1" / "b.ckpt")
    catalogue = Catalogue([base])
    assert catalogue.find("a", kind="lora").format == "safetensors"
    assert catalogue.find("b", kind="lora").format == "ckpt"


def test_an_ending_means_the_file_that_has_it(tmp_path: Path) -> None:
    """After a conversion there are two forms of a model, and both can be named."""
    files = {"v1/a.safetensors": "sd1", "v1/a/": "sd1", "v1/b.safetensors": "sd1"}
    catalogue = Catalogue([put(tmp_path, files)])
    for name in ("a.safetensors", "v1/a.safetensors", f"{tmp_path}/v1/a.safetensors"):
        assert catalogue.find(name).path == tmp_path / "v1" / "a.safetensors"
    for name in ("a", "v1/a", "v1/a.ckpt"):
        assert catalogue.find(name).path == tmp_path / "v1" / "a"
    names = [entry.name for entry in catalogue.entries()]
    assert sorted(names) == ["v1/a", "v1/a.safetensors", "v1/b"]
    assert all(catalogue.find(name).name == name for name in names)


def test_a_file_that_is_named_with_its_ending_and_damaged_is_not_replaced(tmp_path: Path) -> None:
    base = put(tmp_path, {"v1/a/": "sd1"})
    (base / "v1" / "a.safetensors").touch()
    catalogue = Catalogue([base])
    with pytest.raises(ModelBroken, match="it is empty"):
        catalogue.find("a.safetensors")
    assert catalogue.find("a").format == "diffusers"


def test_the_content_counts_not_the_ending(tmp_path: Path) -> None:
    catalogue = Catalogue([put(tmp_path, {"v1/a.ckpt": "sd1"})])
    assert catalogue.find("a.ckpt").format == "safetensors"


def test_the_version_is_what_the_file_says_not_the_folder(tmp_path: Path) -> None:
    catalogue = Catalogue([put(tmp_path, {"v1/a.safetensors": "sdxl", "v1/b/": "sd2"})])
    assert models(catalogue) == {
        "v1/a": ("xl", "sdxl", "safetensors"),
        "v1/b": ("v2", "sd2", "diffusers"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "v1/anime",
        "anime",
        "anime.safetensors",
        "v1/anime.safetensors",
        "v1\\anime.safetensors",
        "./v1/anime",
        "anime.ckpt",
        "anime.safetensors [0123456789]",
        "anime.safetensors [01234567]",
    ],
)
def test_a_model_is_found_by_every_name_people_use(base: Path, name: str) -> None:
    catalogue = Catalogue([base])
    assert catalogue.find(name).path == base / "v1" / "anime.safetensors"
    assert catalogue.find(f"{base}/v1/anime.safetensors").name == "v1/anime"


def test_a_title_with_the_hash_of_another_file_is_not_found(base: Path) -> None:
    catalogue = Catalogue([base])
    entry = catalogue.find("ink", kind="lora")
    catalogue.sha256(entry)
    catalogue._hashes.join()
    (info,) = [i for i in catalogue.infos() if i.kind == "lora"]
    assert info.title == f"ink.safetensors [{str(info.sha256)[:10]}]"
    assert catalogue.find(info.title, kind="lora") == entry
    with pytest.raises(ModelNotFound):
        catalogue.find("ink.safetensors [0123456789]", kind="lora")
    catalogue.close()


def test_a_lora_may_be_named_as_its_trainer_did(tmp_path: Path) -> None:
    rows, said = headers.rows("lora-sd1"), {"ss_output_name": "trained"}
    headers.write(tmp_path / "lora" / "downloaded.safetensors", rows, said)
    catalogue = Catalogue([tmp_path])
    assert catalogue.find("trained", kind="lora").name == "lora/downloaded"
    headers.write(tmp_path / "lora" / "trained.safetensors", rows)
    catalogue.infos()
    assert catalogue.find("trained", kind="lora").name == "lora/trained"


def test_a_lora_of_which_nothing_tells_what_it_is_for_is_of_no_version(tmp_path: Path) -> None:
    rows = {"lora_unet_a.lora_up.weight": ["F16", [4, 2]], "lora_unet_a.alpha": ["F16", []]}
    headers.write(tmp_path / "Lora" / "plain.safetensors", rows)
    headers.write(tmp_path / "v2" / "sorted.safetensors", rows)
    catalogue = Catalogue([tmp_path])
    assert {i.name: i.version for i in catalogue.infos()} == {"Lora/plain": None, "v2/sorted": "v2"}
    headers.write(tmp_path / "Lora" / "sub" / "plain.safetensors", headers.rows("lora-sdxl"))
    catalogue.infos()
    assert catalogue.find("plain", "xl", kind="lora").name == "Lora/sub/plain"
    assert catalogue.find("plain", "v1", kind="lora").name == "Lora/plain", "it may be for that"


def test_of_two_loras_that_a_trainer_named_alike_none_is_guessed(tmp_path: Path) -> None:
    said = {"ss_output_name": "trained"}
    for name, kind in (("one", "lora-sd1"), ("two", "lora-sdxl")):
        headers.write(tmp_path / "lora" / f"{name}.safetensors", headers.rows(kind), said)
    catalogue = Catalogue([tmp_path])
    assert catalogue.find("trained", "v1", kind="lora").name == "lora/one"
    assert catalogue.find("trained", "xl", kind="lora").name == "lora/two"
    with pytest.raises(ModelNotFound, match="several") as caught:
        catalogue.find("trained", kind="lora")
    assert "lora/one" in caught.value.hint and "lora/two" in caught.value.hint


@pytest.mark.parametrize(
    "endings",
    [
        {".weight": [320, 1], ".on_input": []},
        {".diff": [320, 768], ".diff_b": [320]},
        {".diff_b": [320]},
        {".lora_down.weight": [4, 768], ".lora_up.weight": [320, 4]},
        {".lokr_w1": [4, 4], ".lokr_w2": [80, 192]},
        {".hada_w1_a": [320, 4], ".hada_w1_b": [4, 768]},
        {"_lora.down.weight": [4, 768], "_lora.up.weight": [320, 4]},
    ],
)
def test_every_kind_of_lora_that_can_be_read_is_listed(
    tmp_path: Path, endings: dict[str, list[int]]
) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    rows = {f"{layer}{ending}": ["F16", shape] for ending, shape in endings.items()}
    headers.write(tmp_path / "Lora" / "one.safetensors", rows)
    catalogue = Catalogue([tmp_path])
    assert [entry.kind for entry in catalogue.entries()] == ["lora"], catalogue.unusable()


def test_kinds_are_named_apart(base: Path) -> None:
    catalogue = Catalogue([base])
    assert catalogue.find("ink", kind="lora").kind == "lora"
    with pytest.raises(ModelNotFound, match="model 'ink'"):
        catalogue.find("ink")


def test_a_name_that_means_two_models_needs_the_version(base: Path) -> None:
    catalogue = Catalogue([base])
    assert catalogue.find("photo", "v2").name == "v2/photo"
    with pytest.raises(ModelNotFound, match="several") as caught:
        catalogue.find("photo")
    assert "v1/photo" in caught.value.hint and "v2/photo" in caught.value.hint


def test_an_unknown_name_lists_the_nearest(base: Path) -> None:
    for name in ("v1/anme", "anme"):
        with pytest.raises(ModelNotFound) as caught:
            Catalogue([base]).find(name)
        assert "v1/anime" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "v1/../../outside", "v1/notes.txt", "other", "", "/", "["]
)
def test_nothing_outside_the_layout_can_be_named(base: Path, name: str) -> None:
    put(base.parent, {"outside.safetensors": "sd1"})
    with pytest.raises(ModelNotFound):
        Catalogue([base]).find(name)


def test_a_link_that_leaves_the_base_path_is_not_followed(base: Path, tmp_path: Path) -> None:
    outside = put(tmp_path / "elsewhere", {"secret.safetensors": "sd1", "whole/": "sd1"})
    (base / "v1" / "link.safetensors").symlink_to(outside / "secret.safetensors")
    (base / "v1" / "all").symlink_to(outside)
    (base / "v1" / "whole").symlink_to(outside / "whole")
    (base / "v1" / "inside.safetensors").symlink_to(base / "loose.safetensors")
    (base / "v1" / "round").symlink_to(base / "v1")
    (base / "embeddings").symlink_to(outside)
    catalogue = Catalogue([base])
    names = set(models(catalogue))
    assert "v1/inside" in names
    assert not [name for name in names if "secret" in name or "whole" in name or "link" in name]
    assert {u.name: u.reason for u in catalogue.unusable()} == dict.fromkeys(
        ("v1/link.safetensors", "v1/whole", "embeddings"),
        "it is a link that leaves the model folder",
    )
    with pytest.raises(ModelBroken, match="leaves the model folder"):
        catalogue.find("link")


def test_a_link_renames_nothing(base: Path) -> None:
    """Whatever it leads to, and whichever of the two comes first by name."""
    before = set(models(Catalogue([base])))
    put(base, {"v1/real/inner.safetensors": "sd1"})
    (base / "v1" / "up").symlink_to("..")
    (base / "v1" / "a-link").symlink_to("real")
    (base / "v1" / "a-model").symlink_to("folder")
    (base / "compvis").symlink_to("v1")
    assert set(models(Catalogue([base]))) == before | {"v1/real/inner"}


# --- defaults ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "task", "name"),
    [
        (None, "txt2img", "runwayml/stable-diffusion-v1-5"),
        ("v1", "img2img", "runwayml/stable-diffusion-v1-5"),
        ("v1", "inpaint", "runwayml/stable-diffusion-inpainting"),
        ("v1", "outpaint", "runwayml/stable-diffusion-inpainting"),
        ("v2", "txt2img", "stabilityai/stable-diffusion-2-1-base"),
        ("v2", "inpaint", "v2/photo"),
        ("xl", "img2img", "xl/big"),
        ("xl", "inpaint", "xl/big"),
    ],
)
def test_the_default_is_what_the_task_needs(base: Path, version: Any, task: str, name: str) -> None:
    assert Catalogue([base]).default(version, task).name == name


def test_enlarging_takes_an_upscaler_and_nothing_else(base: Path) -> None:
    catalogue = Catalogue([base])
    with pytest.raises(ModelNotFound, match="upscaling model") as caught:
        catalogue.default(task="upscale")
    assert "x4-upscaler" in caught.value.hint
    put(base, {"v2/larger.safetensors": "upscale-x4"})
    assert catalogue.default(task="upscale").name == "v2/larger"
    assert catalogue.default("v2").name != "v2/larger"


def test_a_plain_model_is_the_default_before_a_distilled_one(tmp_path: Path) -> None:
    files = {"xl/a_turbo.safetensors": "sdxl", "xl/b.safetensors": "sdxl"}
    catalogue = Catalogue([put(tmp_path, files)])
    assert catalogue.default("xl").name == "xl/b"
    assert catalogue.find("a_turbo").distillation == "turbo"


def test_the_example_is_the_last_resort(tmp_path: Path) -> None:
    example = put(tmp_path / "example", {"v1/shapes/": "sd1"})
    own = tmp_path / "own"
    catalogue = Catalogue([own], example)
    assert catalogue.default().example
    put(own, {"v1/mine.safetensors": "sd1"})
    catalogue.infos()
    assert catalogue.default().name == "v1/mine"
    assert catalogue.find("shapes").example


def test_without_any_model_the_error_says_where_to_put_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        Catalogue([tmp_path]).default()
    assert "v1/" in caught.value.hint


def test_a_home_directory_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path, {"sd/v1/a.safetensors": "sd1"})
    assert [e.name for e in Catalogue([Path("~/sd")]).entries()] == ["v1/a"]


# --- changes -----------------------------------------------------------------------------


def test_a_file_that_is_put_there_is_found_by_the_next_request(base: Path) -> None:
    catalogue = Catalogue([base])
    with pytest.raises(ModelNotFound):
        catalogue.find("new")
    put(base, {"v1/sub/new.safetensors": "sd1"})
    assert catalogue.find("new").name == "v1/sub/new"
    (base / "v1" / "sub" / "new.safetensors").unlink()
    assert "v1/sub/new" not in [info.name for info in catalogue.infos()]


def test_a_file_that_is_written_over_is_what_it_is_now(base: Path) -> None:
    catalogue = Catalogue([base])
    before = catalogue.find("anime")
    put(base, {"v1/anime.safetensors": "sdxl"})
    after = catalogue.find("anime")
    assert (before.arch, after.arch) == ("sd1", "sdxl")
    assert before.stamp != after.stamp


def test_a_download_that_has_ended_can_be_used(base: Path) -> None:
    path = base / "v1" / "anime.safetensors"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    catalogue = Catalogue([base])
    with pytest.raises(ModelBroken, match="cut short"):
        catalogue.find("anime")
    os.truncate(path, size)
    assert catalogue.find("anime").arch == "sd1"


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2", "scheduler"])
def test_a_model_with_another_part_is_another(base: Path, part: str) -> None:
    weights = base / "v1" / "folder" / part / "model.safetensors"
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"one")
    catalogue = Catalogue([base])
    before = catalogue.find("v1/folder").stamp
    assert catalogue.find("v1/folder").stamp == before
    weights.write_bytes(b"three")
    assert catalogue.find("v1/folder").stamp != before


def test_a_vae_in_a_folder_can_be_used_once_it_is_whole(tmp_path: Path) -> None:
    config = tmp_path / "VAE" / "my-vae" / "config.json"
    config.parent.mkdir(parents=True)
    text = json.dumps({**ARCHS["sd1"].vae, "_class_name": "AutoencoderKL"})
    config.write_text(text[:20])
    catalogue = Catalogue([tmp_path])
    with pytest.raises(ModelBroken, match="damaged"):
        catalogue.find("my-vae", kind="vae")
    config.write_text(text)
    found = catalogue.find("my-vae", kind="vae")
    (config.parent / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    assert catalogue.find("my-vae", kind="vae").stamp != found.stamp


def test_any_thread_may_ask_while_files_come_and_go(base: Path) -> None:
    catalogue = Catalogue([base])
    faults: list[Exception] = []

    def ask() -> None:
        try:
            for _ in range(20):
                assert catalogue.find("anime").arch == "sd1"
                assert catalogue.infos()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            faults.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(20):
        put(base, {f"v1/extra{i % 3}.safetensors": "lora-sd1"})
        (base / "v1" / f"extra{i % 3}.safetensors").unlink()
    for thread in threads:
        thread.join()
    assert faults == []


# --- the listing -------------------------------------------------------------------------


def test_the_listing_says_what_everything_is(base: Path) -> None:
    said = {"modelspec.trigger_phrase": "ink style", "ss_network_dim": "8"}
    headers.write(base / "lora" / "ink.safetensors", headers.rows("lora-sd1"), said)
    infos = {info.name: info for info in Catalogue([base]).infos({"xl/big"})}
    ink, big, soft = infos["lora/ink"], infos["xl/big"], infos["vae/soft"]
    assert (ink.kind, ink.arch, ink.version, ink.tasks) == ("lora", "sd1", "v1", [])
    assert (ink.trigger_words, ink.metadata["ss_network_dim"]) == (["ink style"], "8")
    assert (big.title, big.arch, big.loaded, big.default) == ("big.safetensors", "sdxl", True, True)
    assert big.tasks == ["txt2img", "img2img", "inpaint", "outpaint"]
    assert (soft.kind, soft.sha256) == ("vae", None)
    assert infos["xl/refine"].tasks == ["img2img", "inpaint", "outpaint"]


def test_a_garbage_folder_is_listed_with_reasons_and_breaks_nothing(base: Path) -> None:
    v1 = base / "v1"
    before = models(Catalogue([base]))
    contents = {"empty.ckpt": b"", "ten.safetensors": b"0123456789", "page.ckpt": b"<html>"}
    for name, content in {**contents, "hostile.ckpt": b"cos\nsystem\n(S'x'\ntR."}.items():
        (v1 / name).write_bytes(content)
    (v1 / "named.safetensors").mkdir()
    (v1 / "half.safetensors.part").touch()
    (v1 / "nowhere.ckpt").symlink_to("gone")
    (v1 / "loop.ckpt").symlink_to("loop.ckpt")
    os.mkfifo(v1 / "pipe.ckpt")
    os.close(os.open(os.fsencode(v1) + b"/caf\xe9.ckpt", os.O_CREAT))
    (v1 / "no-configs").mkdir()
    (v1 / "no-configs" / "model_index.json").write_text("{}")
    (v1 / "text.bin").write_text("words")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(v1 / "socket.ckpt"))
        catalogue = Catalogue([base])
        assert models(catalogue) == before
        reasons = {u.name.removeprefix("v1/"): u.reason for u in catalogue.unusable()}
    assert reasons == {
        "empty.ckpt": "it is empty",
        "ten.safetensors": "it is not a model file, or a damaged one",
        "page.ckpt": "it is a web page: the download went wrong",
        "hostile.ckpt": "it is not a model file, or a damaged one",
        "named.safetensors": "it is a folder",
        "half.safetensors.part": "it is an unfinished download",
        "nowhere.ckpt": "it is a link to nothing",
        "loop.ckpt": reasons["loop.ckpt"],
        "pipe.ckpt": "it is not a file",
        "caf\\udce9.ckpt": "its name cannot be written",
        "no-configs": "it is a folder that does not say what it is, which is not supported",
        "text.bin": "it is not a model file, or a damaged one",
        "socket.ckpt": "it is not a file",
    }
    assert "itself" in reasons["loop.ckpt"] or "symbolic links" in reasons["loop.ckpt"]
    with pytest.raises(ModelBroken, match="it is empty"):
        catalogue.find("empty")


def test_what_cannot_be_used_is_refused_by_name_with_the_reason(base: Path) -> None:
    put(base, {"v1/canny.safetensors": "controlnet"})
    import torch

    torch.save({"state_dict": {}, "run": os.system}, base / "v1" / "hostile.ckpt")
    catalogue = Catalogue([base])
    with pytest.raises(ModelUnsupported, match="a ControlNet"):
        catalogue.find("canny")
    with pytest.raises(ModelUnsafe, match="system"):
        catalogue.find("hostile.ckpt")


def test_parts_of_models_in_folders_are_passed_over(base: Path) -> None:
    part = base / "v1" / "lost" / "unet"
    headers.write(part / "diffusion_pytorch_model.safetensors", headers.rows("unet"))
    (part / "config.json").write_text("{}")
    vae = base / "vae" / "sd-vae-ft-mse"
    vae.mkdir()
    (vae / "config.json").write_text(
        json.dumps({**ARCHS["sd1"].vae, "_class_name": "AutoencoderKL"})
    )
    catalogue = Catalogue([base])
    assert catalogue.unusable() == []
    assert catalogue.find("sd-vae-ft-mse", kind="vae").format == "diffusers"


# --- cost --------------------------------------------------------------------------------


def test_many_files_are_catalogued_at_once_and_then_kept(tmp_path: Path) -> None:
    """The bounds are wide, for a busy machine; benchmarks/catalogue.py measures."""
    for i, kind in enumerate([*["lora-sd1"] * 8, "lora-sdxl", "sd1"]):
        path = headers.write(tmp_path / "v1" / f"{i}.safetensors", headers.rows(kind))
        for copy in range(19):
            os.link(path, path.with_name(f"{i}-{copy}.safetensors"))
    catalogue = Catalogue([tmp_path])
    start = time.thread_time()
    assert len(catalogue.entries()) == 200
    assert time.thread_time() - start < 1
    start = time.thread_time()
    for _ in range(1000):
        assert catalogue.find("9-7").name == "v1/9-7"
    assert (time.thread_time() - start) / 1000 < 0.0005
