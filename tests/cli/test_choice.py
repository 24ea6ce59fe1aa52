"""Which files of a repository are fetched: one format of weights, and nothing that is not read."""

from __future__ import annotations

import pytest

from runai.cli.fetch.choice import is_folder, needed
from runai.errors import InvalidSetting

# the listing of a published diffusers repository, as such are
DIFFUSERS = [
    ".gitattributes",
    "README.md",
    "feature_extractor/preprocessor_config.json",
    "model_index.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/flax_model.msgpack",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.onnx",
    "text_encoder/model.safetensors",
    "text_encoder/openvino_model.bin",
    "text_encoder/pytorch_model.bin",
    "text_encoder/pytorch_model.fp16.bin",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "v1-5-pruned-emaonly.ckpt",
    "v1-5-pruned-emaonly.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.safetensors",
    "vae_decoder/model.onnx",
]
CONFIGURATION = [
    "feature_extractor/preprocessor_config.json",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "vae/config.json",
]


def weights(found: list[str]) -> list[str]:
    return [name for name in found if name not in CONFIGURATION]


def test_a_diffusers_model_is_its_components_with_one_format_of_weights() -> None:
    found = needed(DIFFUSERS)
    assert set(CONFIGURATION) <= set(found)
    assert weights(found) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_a_variant_is_taken_where_there_is_one() -> None:
    assert weights(needed(DIFFUSERS, variant="fp16")) == [
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_pickles_are_taken_only_where_there_is_nothing_else() -> None:
    old = [name for name in DIFFUSERS if not name.endswith(".safetensors")]
    assert weights(needed(old)) == [
        "text_encoder/pytorch_model.bin",
        "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.bin",
    ]


def test_shards_come_with_their_index() -> None:
    stem = "diffusion_pytorch_model"
    sharded = [
        "config.json",
        f"{stem}-00001-of-00002.bin",
        f"{stem}-00001-of-00002.safetensors",
        f"{stem}-00002-of-00002.bin",
        f"{stem}-00002-of-00002.safetensors",
        f"{stem}.bin.index.json",
        f"{stem}.fp16-00001-of-00001.safetensors",
        f"{stem}.safetensors.index.fp16.json",
        f"{stem}.safetensors.index.json",
    ]
    names = [f"unet/{name}" for name in sharded]
    found = needed(["model_index.json", *names])
    assert found == ["model_index.json", *(names[i] for i in (0, 2, 4, 8))]
    found = needed(["model_index.json", *names], variant="fp16")
    assert found == ["model_index.json", *(names[i] for i in (0, 6, 7))]


def test_a_component_on_its_own_is_its_configuration_and_weights() -> None:
    names = ["README.md", "config.json", "diffusion_pytorch_model.bin", "x/other.bin"]
    better = [*names, "diffusion_pytorch_model.safetensors"]
    assert needed(names) == ["config.json", "diffusion_pytorch_model.bin"]
    assert needed(better) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_a_single_file_is_taken_the_safe_format_first() -> None:
    assert needed(["README.md", "style.ckpt", "style.safetensors"]) == ["style.safetensors"]
    assert needed(["style.ckpt", "style.png"]) == ["style.ckpt"]


def test_of_several_single_files_the_user_has_to_choose() -> None:
    names = ["step2.safetensors", "step4.safetensors"]
    with pytest.raises(InvalidSetting, match="2 models") as caught:
        needed(names)
    assert "--include: step2.safetensors, step4.safetensors" in caught.value.hint
    assert needed(names, include=["*4*"]) == ["step4.safetensors"]
    assert needed(names, exclude=["*4*"]) == ["step2.safetensors"]


def test_what_the_user_includes_is_taken_at_its_word() -> None:
    found = needed(DIFFUSERS, include=["*.ckpt", "unet/*"], exclude=["*.bin", "*non_ema*"])
    assert found == [
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "v1-5-pruned-emaonly.ckpt",
    ]


@pytest.mark.parametrize("names", [[], ["README.md"], ["scheduler/scheduler_config.json"]])
def test_a_repository_without_a_model_is_refused_with_what_it_holds(names: list[str]) -> None:
    with pytest.raises(InvalidSetting, match="No file"):
        needed(names)


def test_a_folder_is_told_from_single_files() -> None:
    assert is_folder(["model_index.json", "unet/config.json"])
    assert is_folder(["config.json", "diffusion_pytorch_model.bin"])
    assert not is_folder(["a.safetensors", "b.safetensors"])
