"""Textual inversions in every form files have: their vectors, and what prompts make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny
import torch
from safetensors.torch import save_file

from runai.engine import embeddings as embeddings_module
from runai.engine import loading
from runai.engine.catalogue import Catalogue
from runai.engine.detection.adapters import MAX_NUMBERS
from runai.engine.devices import Place
from runai.engine.embeddings import Embeddings
from runai.engine.model import LoadedModel
from runai.engine.prompts import Prompts
from runai.errors import ModelNotFound
from runai.schema.codec import parse_task

PLACE = Place(torch.device("cpu"), torch.float32)
VECTORS = torch.randn(3, 768, generator=torch.Generator().manual_seed(1))
ONE = VECTORS[:1]


def _webui(vectors: torch.Tensor, *, wrapped: bool = False) -> dict[str, Any]:
    """As automatic1111's trainer writes it, and (`wrapped`) the first of all trainers did."""
    parameter = {"*": torch.nn.Parameter(vectors, requires_grad=False)}
    return {
        "string_to_token": {"*": 265},
        "string_to_param": torch.nn.ParameterDict(parameter) if wrapped else parameter,
        "name": "whatever",
        "step": 500,
        "sd_checkpoint": "abcdef",
        "sd_checkpoint_name": None,
    }


FORMS: dict[str, tuple[Callable[[Path], Any], torch.Tensor]] = {
    "web UI.pt": (lambda p: torch.save(_webui(VECTORS), p), VECTORS),
    "first.pt": (lambda p: torch.save(_webui(VECTORS, wrapped=True), p), VECTORS),
    "older form.pt": (
        lambda p: torch.save(
            _webui(VECTORS, wrapped=True), p, _use_new_zipfile_serialization=False
        ),
        VECTORS,
    ),
    "web UI 2.safetensors": (lambda p: save_file({"emb_params": VECTORS}, p), VECTORS),
    "diffusers.bin": (lambda p: torch.save({"<cat-toy>": ONE[0]}, p), ONE),
    "diffusers 2.safetensors": (lambda p: save_file({"<cat-toy>": ONE[0]}, p), ONE),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    tiny.write_model(folder / "v1" / "plain")
    tiny.write_model(folder / "xl" / "plain", "sdxl")
    (folder / "embeddings").mkdir()
    return folder


@pytest.fixture(scope="module")
def catalogue(base: Path) -> Catalogue:
    return Catalogue([base])


@pytest.fixture
def embeddings(catalogue: Catalogue) -> Embeddings:
    return Embeddings(catalogue)


def look_again(catalogue: Catalogue) -> None:
    """Have the catalogue see what was written just now: it looks when a name is not known."""
    with pytest.raises(ModelNotFound):
        catalogue.find("no such thing")


@pytest.fixture(scope="module")
def models(base: Path, catalogue: Catalogue) -> dict[str, LoadedModel]:
    return {v: loading.load(catalogue.find(f"{v}/plain"), PLACE, [base]) for v in ("v1", "xl")}


class Wide:
    """A model whose text encoder is as wide as a real one; no more of it is looked at."""

    def __init__(self, model: LoadedModel, *widths: int) -> None:
        self.arch, self.device, self.dtype = model.arch, model.device, model.dtype
        self.texts = [_text(width) for width in widths]


def _text(width: int) -> Any:
    network = tiny.make_text_encoder(10, width)
    return type("Text", (), {"network": network})()


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_its_vectors(
    base: Path,
    catalogue: Catalogue,
    embeddings: Embeddings,
    models: dict[str, LoadedModel],
    name: str,
) -> None:
    write, expected = FORMS[name]
    write(base / "embeddings" / name)
    look_again(catalogue)
    word = Path(name).stem
    assert word.lower() in embeddings.names()
    real: Any = Wide(models["v1"], 768)
    for written in (word, word.upper()):
        [vectors] = embeddings.vectors(real, written) or ()
        assert torch.equal(vectors, expected)
    assert embeddings.note(real, word) is None


def test_the_two_encoders_of_sdxl_each_have_their_own(
    base: Path, catalogue: Catalogue, embeddings: Embeddings, models: dict[str, LoadedModel]
) -> None:
    large = torch.randn(3, 1280, generator=torch.Generator().manual_seed(2))
    save_file({"clip_g": large, "clip_l": VECTORS}, base / "embeddings" / "both.safetensors")
    look_again(catalogue)
    first, second = embeddings.vectors(Wide(models["xl"], 768, 1280), "both") or ()  # type: ignore[arg-type]
    assert torch.equal(first, VECTORS)
    assert torch.equal(second, large)
    refiner: Any = Wide(models["xl"], 1280)
    [alone] = embeddings.vectors(refiner, "both") or ()
    assert torch.equal(alone, large)


def test_one_for_another_arch_is_no_word_and_a_note_says_so(
    base: Path, catalogue: Catalogue, embeddings: Embeddings, models: dict[str, LoadedModel]
) -> None:
    save_file({"emb_params": VECTORS}, base / "embeddings" / "other.safetensors")
    look_again(catalogue)
    for real in (Wide(models["v1"], 1024), Wide(models["xl"], 768, 1280)):
        model: Any = real
        assert embeddings.vectors(model, "other") is None
        note = embeddings.note(model, "other")
        assert note is not None
        assert "other was not used: it was not made for" in note


def test_numbers_that_are_none_are_not_used(
    base: Path, catalogue: Catalogue, embeddings: Embeddings, models: dict[str, LoadedModel]
) -> None:
    broken = VECTORS.clone()
    broken[0, 0] = torch.nan
    save_file({"emb_params": broken}, base / "embeddings" / "broken.safetensors")
    look_again(catalogue)
    real: Any = Wide(models["v1"], 768)
    assert embeddings.vectors(real, "broken") is None
    assert "holds numbers that are not finite" in (embeddings.note(real, "broken") or "")


def test_a_file_that_is_replaced_is_read_again(
    base: Path, catalogue: Catalogue, embeddings: Embeddings, models: dict[str, LoadedModel]
) -> None:
    real: Any = Wide(models["v1"], 768)
    path = base / "embeddings" / "changing.safetensors"
    save_file({"emb_params": VECTORS}, path)
    look_again(catalogue)
    [before] = embeddings.vectors(real, "changing") or ()
    path.unlink()
    look_again(catalogue)
    assert embeddings.vectors(real, "changing") is None
    assert "changing" not in embeddings.names()
    save_file({"emb_params": ONE}, path)
    look_again(catalogue)
    [after] = embeddings.vectors(real, "changing") or ()
    assert (len(before), len(after)) == (3, 1)


def test_what_is_larger_than_any_word_is_not_read(
    base: Path, catalogue: Catalogue, embeddings: Embeddings, models: dict[str, LoadedModel]
) -> None:
    large = torch.zeros(MAX_NUMBERS // 768 + 1, 768)
    save_file({"emb_params": large}, base / "embeddings" / "large.safetensors")
    hidden = _webui(VECTORS)
    hidden["string_to_param"]["also"] = large
    torch.save(hidden, base / "embeddings" / "hidden.pt")
    look_again(catalogue)
    assert "large" not in embeddings.names()
    real: Any = Wide(models["v1"], 768)
    assert embeddings.vectors(real, "hidden") is None
    assert "larger than any embedding" in (embeddings.note(real, "hidden") or "")
    assert embeddings.byte_size == 0


def test_of_many_the_longest_unused_are_forgotten(
    base: Path, catalogue: Catalogue, models: dict[str, LoadedModel]
) -> None:
    each = torch.ones(700, 768)
    embeddings, most = Embeddings(catalogue), embeddings_module.MAX_BYTES // each.nbytes
    for i in range(most + 3):
        save_file({"emb_params": each + i}, base / "embeddings" / f"many{i}.safetensors")
    look_again(catalogue)
    real: Any = Wide(models["v1"], 768)
    for i in range(most + 3):
        [vectors] = embeddings.vectors(real, f"many{i}") or ()
        assert vectors[0, 0] == 1 + i
    assert embeddings.byte_size == most * each.nbytes
    [again] = embeddings.vectors(real, "many0") or ()
    assert again[0, 0] == 1


# --- in a prompt -------------------------------------------------------------------------


@torch.inference_mode()
def encoded(model: LoadedModel, embeddings: Embeddings, prompt: str) -> tuple[Any, tuple[str, ...]]:
    request = parse_task(
        {"id": "r", "task": "txt2img", "prompt": prompt, "negative_prompt": "d",
         "num_inference_steps": 4, "guidance_scale": 5.0}
    )  # fmt: skip
    choices = model.defaults.overridden_by(request)
    said = Prompts(2**20).encode(model, request, choices, embeddings=embeddings)
    return said.positive[0].text, said.notes


@torch.inference_mode()
def theirs(base: Path, version: str, files: dict[str, Path], prompt: str) -> Any:
    """diffusers' embeddings of a prompt: with the pooled one for SDXL."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(base / version / "plain",
                                                       local_files_only=True)  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    with torch.random.fork_rng():
        if version == "v1":
            for word, path in files.items():
                pipe.load_textual_inversion(path.parent, weight_name=path.name, token=word)
            return pipe.encode_prompt(prompt, "cpu", 1, False)[0], None
        from safetensors.torch import load_file

        for word, path in files.items():
            tensors = load_file(path)
            for key, number in (("clip_l", ""), ("clip_g", "_2")):
                pipe.load_textual_inversion(
                    tensors[key],
                    token=word,
                    text_encoder=getattr(pipe, f"text_encoder{number}"),
                    tokenizer=getattr(pipe, f"tokenizer{number}"),
                )
        said = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
        return said[0], said[2]


def worst(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max())


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("version", ["v1", "xl"])
def test_prompts_are_encoded_as_diffusers_encodes_them(
    base: Path,
    catalogue: Catalogue,
    embeddings: Embeddings,
    models: dict[str, LoadedModel],
    version: str,
    count: int,
) -> None:
    model = models[version]
    word = f"zq{version}{count}"
    # numbers large enough to matter beside the tokens' own
    vectors = 0.2 * torch.randn(count, tiny.WIDTH, generator=torch.Generator().manual_seed(3))
    tensors = {"emb_params": vectors}
    if version == "xl":
        tensors = {"clip_l": vectors, "clip_g": vectors.flip(1).contiguous()}
    path = base / "embeddings" / f"{word}.safetensors"
    save_file(tensors, path)
    look_again(catalogue)
    ours, notes = encoded(model, embeddings, f"a b {word} c")
    expected, pooled = theirs(base, version, {word: path}, f"a b {word} c")
    assert notes == ()
    assert worst(ours.embedding, expected) < 1e-5
    assert worst(ours.embedding, encoded(model, embeddings, "a b c")[0].embedding) > 1e-2
    if pooled is not None:
        assert worst(ours.pooled, pooled) < 1e-5


def test_a_word_leaves_the_text_encoder_as_it_was(
    base: Path, catalogue: Catalogue, embeddings: Embeddings, models: dict[str, LoadedModel]
) -> None:
    model = models["v1"]
    save_file(
        {"emb_params": torch.ones(2, tiny.WIDTH)}, base / "embeddings" / "zqtrace.safetensors"
    )
    look_again(catalogue)
    before, _ = encoded(model, embeddings, "a b c")
    changed, _ = encoded(model, embeddings, "a zqtrace c")
    after, _ = encoded(model, embeddings, "a b c")
    assert worst(before.embedding, changed.embedding) > 1e-3
    assert worst(before.embedding, after.embedding) == 0.0


def test_what_cannot_be_used_is_read_as_text_and_noted(
    base: Path, catalogue: Catalogue, embeddings: Embeddings, models: dict[str, LoadedModel]
) -> None:
    model = models["v1"]
    save_file({"emb_params": VECTORS}, base / "embeddings" / "zqwide.safetensors")
    look_again(catalogue)
    ours, notes = encoded(model, embeddings, "a zqwide c")
    expected, _ = theirs(base, "v1", {}, "a zqwide c")
    assert worst(ours.embedding, expected) < 1e-5
    [note] = notes
    assert "zqwide was not used" in note
