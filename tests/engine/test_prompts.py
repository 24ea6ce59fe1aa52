"""Prompts to conditioning: chunks, phases, what is cached, what is refused."""

from __future__ import annotations

import gc
from dataclasses import replace

import encoders
import pytest
import torch
from drawn import draw
from encoders import Calls, encode, negative, positive
from hypothesis import given, settings
from hypothesis import strategies as st

from runai.engine import prompting
from runai.engine.archs import Defaults
from runai.engine.chunks import Allowance, Chunk, chunked
from runai.engine.engine import TorchEngine
from runai.engine.model import LoadedModel
from runai.engine.prompting.words import Word, Words
from runai.engine.prompts import Prompts
from runai.errors import InvalidField
from runai.schema.codec import parse_task


@pytest.fixture(scope="module")
def by_arch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    return encoders.make_models(tmp_path_factory.mktemp("encoders"))


@pytest.fixture
def sd1(by_arch: dict[str, LoadedModel]) -> LoadedModel:
    return by_arch["sd1"]


def chunks_of(model: LoadedModel, text: str, vectors: int = 0) -> list[str]:
    """The letters of each chunk, `*` for a vector, without start, end and filling."""
    ((_, (part,)),) = prompting.parse(text, "webui", 20)
    encoder = model.texts[0]
    known = Words({"toy"} if vectors else ())
    chunks = chunked(part.lines[0], encoder, known, lambda _: vectors, Allowance(99))
    return [_letters(model, c) for c in chunks]


def _letters(model: LoadedModel, chunk: Chunk) -> str:
    tokenizer = model.texts[0].tokenizer
    assert len(chunk.slots) == 77
    assert chunk.tokens[0] == tokenizer.bos_token_id
    end = chunk.tokens.index(tokenizer.eos_token_id)
    assert set(chunk.tokens[end + 1 :]) <= {tokenizer.pad_token_id}
    words = tokenizer.convert_ids_to_tokens(list(chunk.tokens[1:end]))
    letters = zip(chunk.slots[1:end], words, strict=True)
    return "".join("*" if slot.vector else word[0] for slot, word in letters)


# --- chunks ------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["sd1", "sd2"])
def test_text_past_75_tokens_goes_on_in_a_chunk_of_its_own(
    by_arch: dict[str, LoadedModel], arch: str
) -> None:
    assert chunks_of(by_arch[arch], "") == [""]
    assert chunks_of(by_arch[arch], "a " * 75) == ["a" * 75]
    assert chunks_of(by_arch[arch], "a " * 76 + "b") == ["a" * 75, "ab"]


@pytest.mark.parametrize("vectors", [1, 40, 3000])
def test_a_text_of_too_many_chunks_is_read_no_further(sd1: LoadedModel, vectors: int) -> None:
    """What a word comes to is in no proportion to its letters."""
    ((_, (part,)),) = prompting.parse("toy " * 3000, "webui", 20)
    asked = []

    def count(word: Word) -> int:
        asked.append(word)
        return vectors

    allowance = Allowance(3)
    with pytest.raises(InvalidField, match="more than 3 chunks"):
        chunked(part.lines[0], sd1.texts[0], Words({"toy"}), count, allowance)
    assert allowance.spent == 4
    assert len(asked) <= 4 * 75 // vectors + 1


def test_a_full_chunk_breaks_after_a_comma_that_is_near_its_end(sd1: LoadedModel) -> None:
    near = "a " * 60 + ", " + "b " * 20
    assert chunks_of(sd1, near) == ["a" * 60 + ",", "b" * 20]
    far = "a " * 54 + ", " + "b " * 25
    assert chunks_of(sd1, far) == ["a" * 54 + "," + "b" * 20, "b" * 5]
    at_reach = "a " * 55 + ", " + "b " * 25
    assert chunks_of(sd1, at_reach) == ["a" * 55 + ",", "b" * 25]
    assert chunks_of(sd1, "a " * 75 + ", b") == ["a" * 75, ",b"]


def test_break_begins_a_chunk_however_full_the_last_is(sd1: LoadedModel) -> None:
    assert chunks_of(sd1, "a b BREAK c BREAK BREAK d") == ["ab", "c", "", "d"]
    assert chunks_of(sd1, "BREAK a") == ["", "a"]


def test_a_textual_inversion_is_not_parted_if_it_fits_a_chunk(sd1: LoadedModel) -> None:
    assert chunks_of(sd1, "a " * 70 + "toy b", 5) == ["a" * 70 + "*" * 5, "b"]
    assert chunks_of(sd1, "a " * 71 + "toy b", 5) == ["a" * 71, "*" * 5 + "b"]
    assert chunks_of(sd1, "a toy", 80) == ["a", "*" * 75, "*" * 5]


def test_all_texts_of_a_request_have_one_length(by_arch: dict[str, LoadedModel]) -> None:
    for model in by_arch.values():
        long = encode(model, prompt="a " * 100, negative_prompt="b")
        assert positive(long).shape == negative(long).shape
        assert long.tokens == 2 * 77
        short = encode(model, prompt="a", negative_prompt="b " * 200)
        assert positive(short).shape[1] == negative(short).shape[1] == 3 * 77


def test_each_chunk_is_what_it_would_be_alone_and_the_rest_is_empty_text(sd1: LoadedModel) -> None:
    both = positive(encode(sd1, prompt="a b BREAK c", negative_prompt="d BREAK e BREAK f"))
    alone = [positive(encode(sd1, prompt=text)) for text in ("a b", "c", "")]
    assert torch.equal(both, torch.cat(alone, dim=1))


def test_the_pooled_embedding_is_that_of_the_first_chunk(by_arch: dict[str, LoadedModel]) -> None:
    whole = encode(by_arch["sdxl"], prompt="(a:1.4) BREAK b").positive[0].text.pooled
    first = encode(by_arch["sdxl"], prompt="a").positive[0].text.pooled
    assert whole is not None
    assert first is not None
    assert torch.equal(whole, first)


# --- phases ------------------------------------------------------------------------------


def test_a_schedule_becomes_phases_of_the_texts_it_means(sd1: LoadedModel) -> None:
    both = encode(sd1, prompt="[a:b:0.5] c", negative_prompt="d", num_inference_steps=10)
    assert [phase.first for phase in both.positive] == [0, 5]
    for phase, text in zip(both.positive, ("a c", "b c"), strict=True):
        assert torch.equal(phase.text.embedding, positive(encode(sd1, prompt=text)))
    assert both.negative is not None
    assert len(both.negative) == 1
    assert torch.equal(both.at(4)[1].embedding, both.positive[0].text.embedding)
    assert torch.equal(both.at(5)[1].embedding, both.positive[1].text.embedding)


def test_alternatives_share_what_was_encoded(sd1: LoadedModel) -> None:
    prompts = Prompts(1 << 20)
    turns = encode(sd1, prompts, prompt="[a|b]", num_inference_steps=20, guidance_scale=1.0)
    assert [phase.first for phase in turns.positive] == list(range(20))
    assert turns.positive[0].text is turns.positive[2].text
    assert prompts.misses == 2


def test_a_schedule_counts_the_steps_that_are_drawn(sd1: LoadedModel) -> None:
    fields = {"id": "r", "prompt": "[a:b:0.5]", "num_inference_steps": 20, "image": "aGk="}
    request = parse_task({**fields, "task": "img2img", "strength": 0.5})

    def first_of_b(model: LoadedModel) -> int:
        choices = Defaults().overridden_by(request)
        return Prompts(0).encode(model, request, choices).positive[1].first

    assert first_of_b(sd1) == 5
    # a model that edits pictures draws all its steps
    assert first_of_b(replace(sd1, arch=replace(sd1.arch, beside="picture"))) == 10


def test_a_scheduled_prompt_draws_what_neither_of_its_texts_does(engine: TorchEngine) -> None:
    pictures = [draw(engine, prompt=text) for text in ("a b", "c d", "[a b:c d:0.5]", "[a b|c d]")]
    for i, picture in enumerate(pictures):
        assert picture.std() > 5
        assert all(abs(picture - other).max() > 0 for other in pictures[:i])
    never = draw(engine, prompt="[a b:c d:1.0]", prompt_dialect="webui")
    assert abs(never - pictures[0]).max() == 0


# --- what a request says -----------------------------------------------------------------


def test_without_guidance_there_is_no_negative_text(sd1: LoadedModel) -> None:
    with Calls(sd1) as calls:
        assert encode(sd1, prompt="a", negative_prompt="b", guidance_scale=1.0).negative is None
    assert calls.number == 1


def test_the_dialect_is_stated_or_recognised_and_told(sd1: LoadedModel) -> None:
    assert encode(sd1, prompt="a").dialect == "plain"
    assert encode(sd1, prompt="(a)++ b").dialect == "compel"
    assert encode(sd1, prompt="a", negative_prompt="(b)").dialect == "webui"
    stated = encode(sd1, prompt="(a)++ b", prompt_dialect="plain")
    assert stated.dialect == "plain"
    assert not torch.equal(positive(stated), positive(encode(sd1, prompt="a b")))


def test_the_dialects_weigh_in_their_own_ways(sd1: LoadedModel) -> None:
    web, compel = (
        positive(encode(sd1, prompt=text, prompt_dialect=dialect))
        for text, dialect in (("(a:1.21) b", "webui"), ("(a)++ b", "compel"))
    )
    plain = positive(encode(sd1, prompt="a b"))
    assert not torch.allclose(web, plain)
    assert not torch.allclose(compel, plain)
    assert not torch.allclose(web, compel)


def test_lora_tags_are_no_text_and_do_nothing_in_the_negative_prompt(sd1: LoadedModel) -> None:
    tagged = encode(sd1, prompt="a <lora:x:0.5>b", negative_prompt="c<lora:y>")
    assert torch.equal(positive(tagged), positive(encode(sd1, prompt="a b")))
    assert len(tagged.notes) == 1
    assert "negative" in tagged.notes[0]


def test_a_clip_skip_that_leaves_no_layer_is_refused(by_arch: dict[str, LoadedModel]) -> None:
    for arch, most in (("sd1", encoders.LAYERS - 1), ("sdxl", encoders.LAYERS - 2)):
        encode(by_arch[arch], prompt="a", clip_skip=most)
        with pytest.raises(InvalidField) as caught:
            encode(by_arch[arch], prompt="a", clip_skip=most + 1)
        assert caught.value.field == "clip_skip"
        assert str(most) in caught.value.hint


BLEND = "(" + ", ".join(['"a"'] * 500) + ").blend(" + ", ".join("1" * 500) + ")"
MANY = "|".join(f"{a} {b}" for a in "abcdefghijklmnop" for b in "abcdefghijklmnop")


@pytest.mark.parametrize("prompt", ["BREAK " * 700, f"[{MANY}] BREAK a BREAK b"])
def test_more_chunks_than_memory_should_hold_are_refused(sd1: LoadedModel, prompt: str) -> None:
    with pytest.raises(InvalidField, match="chunks"):
        encode(sd1, prompt=prompt, num_inference_steps=256)


@pytest.mark.parametrize(
    ("prompt", "negative", "dialect"),
    [
        ("a", "b " * 9_000, "plain"),
        (f"[{MANY}]", "", "webui"),
        ("(a)0.9 b " * 2_000, "", "compel"),
        (BLEND, "", "compel"),
    ],
)
def test_what_is_too_much_is_refused_before_any_of_it_is_encoded(
    by_arch: dict[str, LoadedModel], prompt: str, negative: str, dialect: str
) -> None:
    prompts = Prompts(1 << 20)
    with pytest.raises(InvalidField, match="chunks"):
        encode(
            by_arch["sdxl"],
            prompts,
            prompt=prompt,
            negative_prompt=negative,
            prompt_dialect=dialect,
            num_inference_steps=256,
        )
    assert prompts.misses == 0


def test_two_prompts_of_a_thousand_words_are_encoded(by_arch: dict[str, LoadedModel]) -> None:
    long = "a " * 1_000
    assert encode(by_arch["sdxl"], prompt=long, negative_prompt=long).tokens == 14 * 77


@given(
    st.lists(st.sampled_from([*'()[]:|\\"+-., ab', ":1.2)", ":0.5]", "BREAK", ").and("])).map(
        "".join
    ),
    st.sampled_from(["plain", "webui", "compel", None]),
)
@settings(max_examples=100, deadline=None)
def test_whatever_is_written_is_encoded_or_an_invalid_field(
    by_arch: dict[str, LoadedModel], text: str, dialect: str | None
) -> None:
    try:
        ours = encode(by_arch["sdxl"], prompt=text, negative_prompt="a", prompt_dialect=dialect)
    except InvalidField:
        return
    texts = [phase.text.embedding for phase in (*ours.positive, *(ours.negative or ()))]
    assert {text.shape for text in texts} == {(1, ours.tokens, sum(encoders.WIDTHS))}
    assert all(bool(text.isfinite().all()) for text in texts)


def test_a_faulty_prompt_names_the_field_it_is_in(sd1: LoadedModel) -> None:
    for field in ("prompt", "negative_prompt"):
        with pytest.raises(InvalidField) as caught:
            encode(sd1, **{"prompt": "(a)", "negative_prompt": "(b)", field: "(c) AND d"})
        assert caught.value.field == field


# --- cache -------------------------------------------------------------------------------


def test_a_known_text_does_not_run_the_encoder_whatever_else_differs(
    by_arch: dict[str, LoadedModel],
) -> None:
    model, prompts = by_arch["sdxl"], Prompts(1 << 20)
    first = encode(model, prompts, prompt="a (b:1.3)", negative_prompt="c")
    known = prompts.misses
    with Calls(model) as calls:
        other = {"seed": 9, "num_inference_steps": 7, "width": 512, "guidance_scale": 3.0}
        again = encode(model, prompts, prompt="a (b:1.3)", negative_prompt="c", **other)
        encode(model, prompts, prompt="a (b:0.7)", negative_prompt="c")
        encode(model, prompts, prompt="c", negative_prompt="a b")
    assert calls.number == 0
    assert prompts.misses == known
    assert prompts.hits >= known
    assert torch.equal(positive(first), positive(again))


def test_what_changes_the_encoders_words_is_another_entry(sd1: LoadedModel) -> None:
    prompts = Prompts(1 << 20)
    for expected, fields in enumerate(
        [{}, {"clip_skip": 1}, {"loras": (("ink", 0.5),)}, {"loras": (("ink", 0.6),)}], start=1
    ):
        encode(sd1, prompts, prompt="a", guidance_scale=1.0, **fields)
        assert prompts.misses == expected


def test_the_cache_keeps_to_its_bytes_and_forgets_what_was_not_used(sd1: LoadedModel) -> None:
    of_one = positive(encode(sd1, prompt="a")).nbytes
    prompts = Prompts(2 * of_one + 10)
    asked = {"guidance_scale": 1.0}
    for text in ("a", "b", "a", "c"):
        encode(sd1, prompts, prompt=text, **asked)
        assert prompts.cache.bytes <= prompts.cache.max_bytes
    assert (prompts.hits, prompts.misses) == (1, 3)
    encode(sd1, prompts, prompt="a", **asked)  # used since b was, so b is what went
    assert (prompts.hits, prompts.misses) == (2, 3)
    encode(sd1, prompts, prompt="b", **asked)
    assert (prompts.hits, prompts.misses) == (2, 4)


def test_texts_go_with_the_model_they_belong_to(sd1: LoadedModel, tmp_path: object) -> None:
    prompts = Prompts(1 << 20)
    (text,) = sd1.texts
    network = type(text.network)(text.network.config).eval()
    model = replace(sd1, texts=(replace(text, network=network),))
    encode(sd1, prompts, prompt="a", guidance_scale=1.0)
    before = prompts.cache.bytes
    encode(model, prompts, prompt="a", guidance_scale=1.0)
    assert prompts.cache.bytes == 2 * before
    del model, network
    gc.collect()
    assert prompts.cache.bytes == before


def test_two_encoders_of_one_text_do_not_answer_for_each_other(
    by_arch: dict[str, LoadedModel],
) -> None:
    prompts = Prompts(1 << 20)
    encode(by_arch["sd1"], prompts, prompt="a", guidance_scale=1.0)
    shared = encode(by_arch["sd2"], prompts, prompt="a", guidance_scale=1.0)
    assert torch.equal(positive(shared), positive(encode(by_arch["sd2"], prompt="a")))
