"""The CLIP vocabulary is found, checked, and never half right."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from runai.engine import vocabulary
from runai.errors import ModelBroken, VocabularyMissing

SENTENCE = [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.fixture(scope="module")
def bpe() -> bytes:
    """OpenAI's file, as it lies in the package clip-anytorch, whose code is not imported."""
    try:
        files = importlib.metadata.files("clip-anytorch") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("clip-anytorch, which carries the vocabulary, is not installed")
    [path] = [file for file in files if file.name == vocabulary.BPE_NAME]
    return Path(str(path.locate())).read_bytes()


def as_bpe(base: Path, data: bytes) -> None:
    (base / vocabulary.BPE_NAME).write_bytes(data)


def as_clip_folder(base: Path, data: bytes) -> None:
    write_folder(base / "CLIP", data)


def as_openai_folder(base: Path, data: bytes) -> None:
    write_folder(base / "openai" / "clip-vit-large-patch14", data)


def as_base_model(base: Path, data: bytes) -> None:
    write_folder(base / "runwayml" / "stable-diffusion-v1-5" / "tokenizer", data)


def write_folder(folder: Path, data: bytes) -> None:
    folder.mkdir(parents=True)
    for name, content in vocabulary.as_files(data).items():
        (folder / name).write_text(content)


@pytest.mark.parametrize("write", [as_bpe, as_clip_folder, as_openai_folder, as_base_model])
@pytest.mark.parametrize(("padding", "number"), [("<|endoftext|>", 49407), ("!", 0)])
def test_a_known_sentence_becomes_the_numbers_that_clip_learnt(
    bpe: bytes, tmp_path: Path, write: Callable[[Path, bytes], None], padding: str, number: int
) -> None:
    write(tmp_path, bpe)
    tokenizer = vocabulary.find([tmp_path / "empty", tmp_path], padding)
    assert tokenizer("a photo of a cat").input_ids == SENTENCE
    padded = tokenizer("a photo of a cat", padding="max_length").input_ids
    assert padded == SENTENCE + [number] * (77 - len(SENTENCE))
    long = tokenizer("cat " * 100, truncation=True).input_ids
    assert (len(long), long[0], long[-1]) == (77, 49406, 49407)


def test_openai_s_file_becomes_words_and_merges(bpe: bytes) -> None:
    words, merges = vocabulary.from_bpe(bpe)
    assert len(words) == vocabulary.TOKENS
    assert sorted(words.values()) == list(range(vocabulary.TOKENS))
    assert (words["!"], words["cat</w>"], words["<|endoftext|>"]) == (0, 2368, 49407)
    assert merges[0] == ("i", "n")
    assert len(merges) == 49408 - 512 - 2


def test_a_file_that_is_not_openai_s_is_not_read(bpe: bytes, tmp_path: Path) -> None:
    damaged = bpe[:-1] + bytes([bpe[-1] ^ 1])
    for data in (damaged, bpe + b"x", b"", bpe[:1000]):
        with pytest.raises(ModelBroken, match="not the file that OpenAI published"):
            vocabulary.from_bpe(data)
        as_bpe(tmp_path, data)
        with pytest.raises(VocabularyMissing, match="OpenAI published"):
            vocabulary.find([tmp_path], "!")


def swap_two_words(folder: Path) -> None:
    words = json.loads((folder / "vocab.json").read_text())
    words["cat</w>"], words["dog</w>"] = words["dog</w>"], words["cat</w>"]
    (folder / "vocab.json").write_text(json.dumps(words))


def lose_the_merges(folder: Path) -> None:
    (folder / "merges.txt").write_text("#version: 0.2\n")


def lose_half_of_the_words(folder: Path) -> None:
    words = json.loads((folder / "vocab.json").read_text())
    kept = {word: number for word, number in words.items() if number % 2 or number > 49000}
    (folder / "vocab.json").write_text(json.dumps(kept))


def cut_short(folder: Path) -> None:
    content = (folder / "vocab.json").read_bytes()
    (folder / "vocab.json").write_bytes(content[: len(content) // 2])


def lose_the_words(folder: Path) -> None:
    (folder / "vocab.json").write_text("{}")


@pytest.mark.parametrize(
    "damage",
    [swap_two_words, lose_the_merges, lose_half_of_the_words, cut_short, lose_the_words],
)
def test_a_damaged_vocabulary_is_passed_over_for_a_sound_one_or_an_error(
    bpe: bytes, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    write_folder(tmp_path / "CLIP", bpe)
    damage(tmp_path / "CLIP")
    with pytest.raises(VocabularyMissing) as caught:
        vocabulary.find([tmp_path], "!")
    assert "CLIP" in caught.value.message
    assert "runai models get vocabulary" in caught.value.hint
    as_base_model(tmp_path, bpe)
    assert vocabulary.find([tmp_path], "!")("a photo of a cat").input_ids == SENTENCE


def test_without_any_vocabulary_the_error_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "CLIP").mkdir()
    (tmp_path / vocabulary.BPE_NAME).mkdir()
    with pytest.raises(VocabularyMissing) as caught:
        vocabulary.find([tmp_path, tmp_path / "not-there"], "!")
    assert "runai models get vocabulary" in caught.value.hint


def test_a_vocabulary_of_another_size_than_the_text_encoder_s_is_not_taken(
    tmp_path: Path,
) -> None:
    tokens = tiny.write_tokenizer(tmp_path / "CLIP")
    assert len(vocabulary.find([tmp_path], "!", tokens)) == tokens
    with pytest.raises(VocabularyMissing, match=f"has {tokens} tokens, not 49408"):
        vocabulary.find([tmp_path], "!")


def test_the_tokenizer_of_a_folder_keeps_its_own_settings(bpe: bytes, tmp_path: Path) -> None:
    write_folder(tmp_path / "m" / "tokenizer", bpe)
    settings: dict[str, Any] = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "pad_token": "!",
    }
    (tmp_path / "m" / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert vocabulary.read(tmp_path / "m" / "tokenizer").pad_token_id == 0
    shutil.rmtree(tmp_path / "m" / "tokenizer")
    with pytest.raises(ModelBroken, match="no vocabulary in m/tokenizer"):
        vocabulary.read(tmp_path / "m" / "tokenizer")
