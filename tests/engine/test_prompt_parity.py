"""Prompts against diffusers' pipelines and against compel: the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import encoders
import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from encoders import encode, negative, positive
from transformers import CLIPTextModel

from runai.engine.model import LoadedModel
from runai.engine.prompts import Prompts

Texts = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]
ARCHS = ("sd1", "sd2", "sdxl", "sdxl-refiner")
PROMPT, UNWANTED = "a red cat, 3 dogs", "blurry"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    return encoders.make_models(tmp_path_factory.mktemp("encoders"))


ALONE = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
BOTH = {"num_images_per_prompt": 1, "do_classifier_free_guidance": True}


def pipeline_of(model: LoadedModel) -> Any:
    """diffusers' pipeline with a model's text encoders and nothing else."""
    parts: dict[str, Any] = {"vae": None, "unet": None, "scheduler": PNDMScheduler(steps_offset=1)}
    if model.arch.version != "xl":
        (text,) = model.texts
        parts |= {"text_encoder": text.network, "tokenizer": text.tokenizer}
        parts |= {"safety_checker": None, "feature_extractor": None}
        return StableDiffusionPipeline(**parts, requires_safety_checker=False)
    *first, last = model.texts
    return StableDiffusionXLPipeline(
        **parts,
        text_encoder=first[0].network if first else None,
        tokenizer=first[0].tokenizer if first else None,
        text_encoder_2=last.network,
        tokenizer_2=last.tokenizer,
        force_zeros_for_empty_prompt=model.arch.name != "sdxl-refiner",
    )


def diffusers_says(
    model: LoadedModel, prompt: str, unwanted: str | None, clip_skip: int | None = None
) -> Texts:
    """Positive and negative embedding, and pooled ones, of diffusers' `encode_prompt`."""
    said: dict[str, Any] = {"negative_prompt": unwanted, "clip_skip": clip_skip, "device": "cpu"}
    with torch.no_grad():
        texts = pipeline_of(model).encode_prompt(prompt, **BOTH, **said)
    return (*texts, None, None) if len(texts) == 2 else texts


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("unwanted", [UNWANTED, None])
def test_plain_text_is_bit_identical_to_diffusers(
    models: dict[str, LoadedModel], arch: str, unwanted: str | None
) -> None:
    ours = encode(models[arch], prompt=PROMPT, negative_prompt=unwanted or "")
    theirs = diffusers_says(models[arch], PROMPT, unwanted)
    assert torch.equal(positive(ours), theirs[0])
    assert torch.equal(negative(ours), theirs[1])
    assert positive(ours).std() > 0.1
    assert not torch.equal(positive(ours), negative(ours))
    for phases, pooled in ((ours.positive, theirs[2]), (ours.negative, theirs[3])):
        assert phases is not None
        ours_pooled = phases[0].text.pooled
        assert (ours_pooled is None) == (pooled is None)
        assert pooled is None or torch.equal(ours_pooled, pooled)  # type: ignore[arg-type]


def test_only_sdxls_base_takes_no_negative_prompt_for_zeros(models: dict[str, LoadedModel]) -> None:
    zeros = {arch: not negative(encode(models[arch], prompt="a")).any() for arch in ARCHS}
    assert zeros == {"sd1": False, "sd2": False, "sdxl": True, "sdxl-refiner": False}


@pytest.mark.parametrize(("arch", "skip"), [("sd1", 1), ("sd1", 3), ("sd2", 2), ("sdxl", 1)])
def test_clip_skip_is_diffusers(
    models: dict[str, LoadedModel], arch: str, skip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # diffusers 0.42 looks for the layers where transformers 5 does not have them any more
    monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda self: self), raising=False)
    ours = encode(models[arch], prompt=PROMPT, negative_prompt=UNWANTED, clip_skip=skip)
    theirs = diffusers_says(models[arch], PROMPT, UNWANTED, skip)
    assert torch.equal(positive(ours), theirs[0])
    assert torch.equal(negative(ours), theirs[1])
    assert not torch.equal(positive(ours), positive(encode(models[arch], prompt=PROMPT)))


# --- compel ------------------------------------------------------------------------------

COMPEL = [
    "a cat",
    "a (big)++ cat",
    "a (big cat)- dog",
    "a (big)-- cat (dog)1.5 b+ c-",
    "((a)++ b)-, c, (d)0.1",
    "(a)0 b",
    '("a cat", "a (dog)++").and()',
    '("a cat", "a (dog)-").and(1, 0.5)',
    '("a cat", "a dog").blend(0.7, 0.3)',
    '("a cat", "a (dog)++", "b").blend(1, 2, 1)',
    '("a cat", "a dog").blend(1.5, -0.5, no_normalize)',
]


@pytest.mark.parametrize("prompt", COMPEL)
@pytest.mark.parametrize("arch", ["sd1", "sd2", "sdxl"])
def test_weights_blends_and_conjunctions_are_compels(
    models: dict[str, LoadedModel], arch: str, prompt: str
) -> None:
    compel = pytest.importorskip("compel", reason="compel, the oracle, is not installed")
    kind = compel.ReturnedEmbeddingsType
    theirs = [
        compel.Compel(
            tokenizer=text.tokenizer,
            text_encoder=text.network,
            returned_embeddings_type=(
                kind.LAST_HIDDEN_STATES_NORMALIZED
                if text.layer == -1
                else kind.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
            ),
        )(prompt)
        for text in models[arch].texts
    ]
    ours = positive(encode(models[arch], prompt=prompt, prompt_dialect="compel"))
    expected = torch.cat(theirs, dim=-1)
    assert torch.allclose(ours, expected, atol=2e-5)
    assert expected.std() > 0.1


# what compel 2.5.1 says of the prompts above with the encoder of sd1, as its product with a
# wave; so that it is checked where compel is not installed, too
GOLDEN = [
    -1.3922,
    4.9232,
    5.7518,
    7.9943,
    11.9264,
    1.8831,
    -0.9626,
    -2.4047,
    -0.8337,
    0.3793,
    -2.323,
]


@pytest.mark.parametrize(("prompt", "expected"), list(zip(COMPEL, GOLDEN, strict=True)))
def test_the_numbers_of_compel_are_kept(
    models: dict[str, LoadedModel], prompt: str, expected: float
) -> None:
    ours = positive(encode(models["sd1"], prompt=prompt, prompt_dialect="compel")).flatten()
    wave = torch.sin(torch.arange(ours.numel(), dtype=torch.float32))
    assert float(ours @ wave) == pytest.approx(expected, abs=1e-3)
    assert min(abs(expected - other) for other in GOLDEN if other != expected) > 1e-2


# --- the web UI --------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["sd1", "sdxl"])
def test_the_web_uis_weights_multiply_and_restore_the_mean_of_each_encoder(
    models: dict[str, LoadedModel], arch: str
) -> None:
    plain = positive(encode(models[arch], prompt="a b c"))
    ours = positive(encode(models[arch], prompt="a (b:1.5) c"))
    start = 0
    for text in models[arch].texts:
        end = start + text.network.config.hidden_size
        z = plain[..., start:end]
        weights = torch.ones(1, 77, 1)
        weights[0, 2] = 1.5
        expected = z * weights
        expected = expected * (z.mean() / expected.mean())
        assert torch.allclose(ours[..., start:end], expected, atol=1e-5)
        start = end
    assert start == plain.shape[-1]


def test_clip_skip_is_for_both_prompts_in_the_web_uis_dialect(
    models: dict[str, LoadedModel],
) -> None:
    said = {"prompt": "a", "negative_prompt": "b", "prompt_dialect": "webui"}
    whole, skipped = (negative(encode(models["sd1"], clip_skip=n, **said)) for n in (0, 1))
    assert not torch.allclose(whole, skipped)
    said["prompt_dialect"] = "plain"
    whole, skipped = (negative(encode(models["sd1"], clip_skip=n, **said)) for n in (0, 1))
    assert torch.equal(whole, skipped)


# --- textual inversion -------------------------------------------------------------------


class Inversions:
    """Two words of our own, of three vectors and of one, for encoders of these widths."""

    def __init__(self, *widths: int) -> None:
        generator = torch.Generator().manual_seed(5)
        sizes = {"<cat-toy>": 3, "moody": 1}
        self.known = {
            word: tuple(torch.randn(n, width, generator=generator) for width in widths)
            for word, n in sizes.items()
        }

    def names(self) -> frozenset[str]:
        return frozenset({*self.known, "misfit"})

    def vectors(self, model: LoadedModel, word: str) -> tuple[torch.Tensor, ...] | None:
        return self.known.get(word)

    def note(self, model: LoadedModel, word: str) -> str | None:
        return None if word in self.known else f"{word} does not fit"


@pytest.mark.parametrize("arch", ["sd1", "sdxl"])
def test_a_word_with_vectors_is_what_diffusers_makes_of_it(
    models: dict[str, LoadedModel], tmp_path: Path, arch: str
) -> None:
    known = Inversions(*encoders.WIDTHS[: len(models[arch].texts)])
    ours = encode(models[arch], prompt="a <cat-toy>, Moody b", embeddings=known)
    other = encoders.make_models(tmp_path)[arch]  # the pipeline changes what it is given
    pipeline = pipeline_of(other)
    for word, vectors in known.known.items():
        for text, of_this in zip(other.texts, vectors, strict=True):
            pipeline.load_textual_inversion(
                {word: of_this}, token=word, text_encoder=text.network, tokenizer=text.tokenizer
            )
    with torch.no_grad():
        theirs = pipeline.encode_prompt("a <cat-toy>, moody b", device="cpu", **ALONE)
    assert torch.allclose(positive(ours), theirs[0], atol=1e-6)
    plain = encode(models[arch], prompt="a <cat-toy>, moody b")
    assert not torch.allclose(positive(ours), positive(plain))


def test_words_with_vectors_leave_the_encoder_as_it_was(models: dict[str, LoadedModel]) -> None:
    model, known = models["sd1"], Inversions(16)
    before = {name: value.clone() for name, value in model.texts[0].network.state_dict().items()}
    plain = encode(model, prompt="a b")
    prompts = Prompts(1 << 20)
    first = encode(model, prompts, prompt="a moody b", embeddings=known)
    known.known["moody"] = (known.known["moody"][0] + 1,)  # the file was replaced
    second = encode(model, prompts, prompt="a moody b", embeddings=known)
    assert not torch.equal(positive(first), positive(second))
    assert torch.equal(positive(encode(model, prompt="a b")), positive(plain))
    after = model.texts[0].network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not model.texts[0].network.get_input_embeddings()._forward_hooks


def test_a_word_that_does_not_fit_the_model_is_text_with_a_note(
    models: dict[str, LoadedModel],
) -> None:
    model = models["sd1"]
    ours = encode(model, prompt="a misfit b", embeddings=Inversions(16))
    assert ours.notes == ("misfit does not fit",)
    assert torch.equal(positive(ours), positive(encode(model, prompt="a misfit b")))
