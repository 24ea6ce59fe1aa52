"""The syntax of prompts: what is read of each dialect, and that nothing can upset the parsers."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runai.engine.prompting import BREAK, Composition, Fragment, Part, Reading, parse, read
from runai.engine.prompting.words import Word, Words
from runai.errors import InvalidField
from runai.schema.requests import Lora, PromptDialect, TextToImage

Said = list[tuple[str, float]]
DIALECTS: tuple[PromptDialect, ...] = ("plain", "webui", "compel")


def said(text: str, dialect: PromptDialect = "webui") -> Said:
    """The fragments of a text that is one line, weights rounded."""
    ((_, (part,)),) = parse(text, dialect, 20)
    (line,) = part.lines
    return [(p.text, round(p.weight, 4)) for p in line if isinstance(p, Fragment)]


def reading(prompt: str, negative: str = "", dialect: PromptDialect | None = None) -> Reading:
    return read(
        TextToImage(id="r", prompt=prompt, negative_prompt=negative, prompt_dialect=dialect)
    )


def at_steps(text: str, steps: int) -> dict[int, str]:
    """The bare text from each step on at which it changes."""
    return {first: bare(composition) for first, composition in parse(text, "webui", steps)}


def bare(composition: Composition) -> str:
    lines = [line for part in composition for line in part.lines]
    return "".join(piece.text for line in lines for piece in line if isinstance(piece, Fragment))


# --- the web UI --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("((x))", [("x", 1.21)]),
        ("[x]", [("x", 0.9091)]),
        ("(x:1.2)", [("x", 1.2)]),
        ("(x: 1.5)", [("x", 1.5)]),
        ("(x : 0,8 )", [("x ", 0.8)]),
        ("(x:-.5)", [("x", -0.5)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("a (b [c", [("a ", 1), ("b ", 1.1), ("c", 1)]),
        ("un)opened]", [("un)opened]", 1)]),
        ("a:1.2)", [("a:1.2)", 1)]),
        (r"\(literal\]", [("(literal]", 1)]),
        (r"a\\b \c", [(r"a\b c", 1)]),
        ("(a)(b)", [("ab", 1.1)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", 0.9091)]),
        ("(x:1.2.3)", [("x:1.2.3", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
    ],
)
def test_emphasis_is_read_as_the_web_ui_reads_it(text: str, expected: Said) -> None:
    assert said(text) == expected


def test_break_begins_a_new_chunk_wherever_it_stands() -> None:
    ((_, (part,)),) = parse("a BREAK (b BREAK c:1.2) BREAKING", "webui", 20)
    kinds = [p if p is BREAK else p.text for p in part.lines[0]]  # type: ignore[union-attr]
    assert kinds == ["a ", BREAK, " ", "b ", BREAK, " c", " BREAKING"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a:b:0.5]", {0: "a", 5: "b"}),
        ("[a:b:3]", {0: "a", 3: "b"}),
        ("[a:b: ,3 ]", {0: "a", 3: "b"}),
        ("x [a:0.5] y", {0: "x  y", 5: "x a y"}),
        ("x [a::.5] y", {0: "x a y", 5: "x  y"}),
        ("[a:b:1]", {0: "a", 1: "b"}),
        ("[a:b:1.0]", {0: "a"}),
        ("[a:b:99]", {0: "a"}),
        ("[a:b:0]", {0: "b"}),
        ("[a:b:-2]", {0: "b"}),
        ("a[b:[c:d:2]:1]e", {0: "abe", 1: "ace", 2: "ade"}),
        ("((a][:b:c [d:3]", {0: "a]:b:c ", 3: "a]:b:c d"}),
        ("[a:b:c]", {0: "a:b:c"}),
        ("[a:1|b]", {0: "a:1|b"}),
        ("[a|a]", {0: "a"}),
    ],
)
def test_schedules_are_read_as_the_web_ui_reads_them(text: str, expected: dict[int, str]) -> None:
    assert at_steps(text, 10) == expected


def test_alternatives_take_turns_and_nest() -> None:
    assert at_steps("[a|b|c]", 5) == {0: "a", 1: "b", 2: "c", 3: "a", 4: "b"}
    assert at_steps("[a|[b|c]]", 5) == {0: "a", 1: "c", 2: "a", 3: "c", 4: "a"}
    assert at_steps("[[a|b]:c:2]", 4) == {0: "a", 1: "b", 2: "c"}


def test_emphasis_within_a_schedule_counts() -> None:
    script = parse("[(a:2)|b]", "webui", 2)
    assert [part.lines for _, (part,) in script] == [((Fragment("a", 2.0),),), ((Fragment("b"),),)]


def test_and_is_refused_as_no_text_would_mean_the_same() -> None:
    with pytest.raises(InvalidField, match="AND"):
        parse("(a cat) AND (a dog)", "webui", 20)
    assert said("A CAT AND A DOG", "plain") == [("A CAT AND A DOG", 1)]


# --- compel ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(sunset)++", [("sunset", 1.21)]),
        ("a (big cat)- dog", [("a", 1), ("big cat", 0.9), ("dog", 1)]),
        ("word+ other--", [("word", 1.1), ("other", 0.81)]),
        ('"big cat"++ dog', [("big cat", 1.21), ("dog", 1)]),
        ("(x)1.3", [("x", 1.3)]),
        ("(x).attend(1.3) (y).attend(++)", [("x", 1.3), ("y", 1.21)]),
        ("((a)++ b)++", [("a", 1.4641), ("b", 1.21)]),
        ("high-res a-b 3-d", [("high-res a-b 3-d", 1)]),
        (r"\(a\) b\+", [("(a) b+", 1)]),
        ("foo(bar)++", [("foo(bar)++", 1)]),
        ("(a - b)+", [("a - b", 1.1)]),
        ("(a", [("(a", 1)]),
        ('5" of a)', [('5" of a)', 1)]),
        (
            "owl,(headphones)++,busy city,(watercolor)+",
            [("owl,", 1), ("headphones", 1.21), (", busy city,", 1), ("watercolor", 1.1)],
        ),
    ],
)
def test_compels_weights_are_read(text: str, expected: Said) -> None:
    assert said(text, "compel") == expected


def test_compels_and_makes_parts_and_its_blend_makes_shares() -> None:
    a, b = (Fragment("a,", 1.0), Fragment("b", 1.1)), (Fragment("c"),)
    assert parse('("a, b+", "c").and()', "compel", 20) == ((0, (Part((a,)), Part((b,)))),)
    assert parse('("a, b+", "c").and(1, 0.5)', "compel", 20) == (
        (0, (Part((a,)), Part((b,), weight=0.5))),
    )
    assert parse('("a, b+", "c").blend(1, 3)', "compel", 20) == (
        (0, (Part((a, b), (0.25, 0.75)),)),
    )
    assert parse('("a, b+", "c").blend(2, -1, no_normalize)', "compel", 20) == (
        (0, (Part((a, b), (2.0, -1.0)),)),
    )


@pytest.mark.parametrize(
    "text",
    [
        '("a", "b").and(1)',
        '("a", "b").blend(1, x)',
        '("a", "b").blend(1, -1)',
        '("a", "b").and() and more',
        'more ("a", "b").blend(1, 1)',
        '("a", "b").blend(1, 99999)',
        "a cat.swap(dog)",
    ],
)
def test_what_compel_cannot_mean_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse(text, "compel", 20, "negative_prompt")
    assert caught.value.field == "negative_prompt"
    assert caught.value.hint


# --- which dialect -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ("a photo of a cat", "plain"),
        ("", "plain"),
        ("notepad++, C++ and A+", "plain"),
        ("sad :-( cat [", "plain"),
        ("(x)", "webui"),
        ("((x)), y", "webui"),
        ("[x]", "webui"),
        ("(x:1.2)", "webui"),
        ("(x: 1,5), (y)++", "webui"),
        ("[a:b:0.5]", "webui"),
        ("a BREAK b", "webui"),
        (r"saber \(fate\)", "webui"),
        ("(sunset)++, city", "compel"),
        ("(sunset)-, (city)", "compel"),
        ("(sunset)1.3", "compel"),
        ('("a", "b").blend(1, 1)', "compel"),
        ("withLora(ink, 0.5) cat", "compel"),
        ("(dog)-like", "webui"),
    ],
)
def test_the_dialect_is_told_from_what_is_written(text: str, dialect: str) -> None:
    assert reading(text).dialect == dialect


def test_both_prompts_are_read_in_one_dialect() -> None:
    assert reading("(sunset)++", "(extra fingers), blurry").dialect == "compel"
    assert reading("a cat", "(extra fingers)").dialect == "webui"


# --- LoRAs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "unet", "text"),
    [
        ("<lora:ink>", 1.0, None),
        ("<lora:ink:0.8>", 0.8, None),
        ("<lora:ink:0,8>", 0.8, None),
        ("<lora:ink:0.00001>", 0.00001, None),
        ("<lora: ink : -0.5 >", -0.5, None),
        ("<lora:ink:0.5:0.8>", 0.8, 0.5),
        ("<lora:ink:te=0.5:unet=0.8>", 0.8, 0.5),
        ("<lora:ink:unet=0.8>", 0.8, 1.0),
        ("<lora:ink:te=0>", 0.0, None),
        ("<LoRA:ink:1>", 1.0, None),
        ("<lyco:ink:1>", 1.0, None),
    ],
)
def test_a_tag_names_a_lora_with_the_web_uis_order_of_weights(
    tag: str, unet: float, text: float | None
) -> None:
    found = reading(f"a cat, {tag}(b)", dialect="webui")
    assert found.prompt == "a cat, (b)"
    assert found.loras == (Lora(name="ink", weight=unet, text_weight=text),)


def test_several_tags_are_taken_out_and_compels_form_is_understood() -> None:
    found = reading("<lora:a:1>x<lora:b/c v2:0.5> y")
    assert (found.prompt, [lora.name for lora in found.loras]) == ("x y", ["a", "b/c v2"])
    found = reading("(cat)++ withLora(ink, 0.5)")
    assert (found.prompt.strip(), found.loras) == ("(cat)++", (Lora(name="ink", weight=0.5),))


def test_compels_form_is_text_where_the_other_prompt_is_written_for_the_web_ui() -> None:
    assert reading("a withLora(ink)").prompt == "a "
    told = reading("a withLora(ink)", "(b:1.2)")
    assert (told.dialect, told.prompt, told.loras) == ("webui", "a withLora(ink)", ())


def test_a_tag_that_another_leaves_behind_is_taken_out_too() -> None:
    found = reading("<lora<lora:a>:b> (x)")
    assert (found.prompt, [lora.name for lora in found.loras]) == (" (x)", ["a", "b"])
    found = reading("<withLora(a)lora:b> (x)++")
    assert (found.prompt, [lora.name for lora in found.loras]) == (" (x)++", ["a", "b"])


def test_plain_text_that_is_stated_to_be_has_no_tags() -> None:
    told = reading("<lora:a:1>", dialect="plain")
    assert (told.prompt, told.loras) == ("<lora:a:1>", ())


@pytest.mark.parametrize("prompt", ["<lora:a>" * 2500, "<lora:a>" * 32, "withLora(a)" * 32])
def test_the_loras_of_field_and_prompt_together_are_bounded(prompt: str) -> None:
    with pytest.raises(InvalidField, match="More than 32") as caught:
        read(TextToImage(id="r", prompt=prompt, loras=[Lora(name="b")]))
    assert caught.value.field == "prompt"
    assert len(reading("<lora:a>" * 31 + "(x)++ withLora(b)").loras) == 32
    with pytest.raises(InvalidField, match="More than 32"):
        reading("a", "<lora:a>" * 33)


@pytest.mark.parametrize(
    "tag", ["<lora:>", "<lora:a:x>", "<lora:a:99>", "<lora:a:1:2:3>", "<lora:a:dyn=3>"]
)
def test_a_tag_that_is_not_understood_is_refused(tag: str) -> None:
    with pytest.raises(InvalidField, match="lora"):
        reading(tag)


def test_a_requests_loras_are_those_of_its_field_and_of_its_prompt() -> None:
    request = TextToImage(
        id="r", prompt="<lora:b:0.5>", negative_prompt="<lora:c>", loras=[Lora(name="a")]
    )
    assert [lora.name for lora in read(request).loras] == ["a", "b"]
    assert read(request).idle


# --- names of textual inversions ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("by EasyNegative, x", ["easynegative"]),
        ("easynegatives", []),
        ("bad-hands-5, bad-hands55, bad-hands-5x", ["bad-hands-5", "bad-hands"]),
        ("bad-hands", ["bad-hands"]),
        ("a <cat-toy> here", ["<cat-toy>"]),
        ("İ easynegative", ["easynegative"]),
    ],
)
def test_names_are_found_as_whole_words_the_longest_first(text: str, expected: list[str]) -> None:
    words = Words({"easynegative", "bad-hands", "bad-hands-5", "<cat-toy>", "***"})
    pieces = list(words.split(text))
    assert [p.name for p in pieces if isinstance(p, Word)] == expected
    assert "".join(p.written if isinstance(p, Word) else p for p in pieces) == text


# --- nothing upsets them -----------------------------------------------------------------

SYNTAX = st.lists(
    st.sampled_from(
        [*'()[]:|\\"+-.,<> =', "a", "b c", ":1.2)", "0.5", "BREAK", "<lora:", ").and(", ").blend("]
    ),
    max_size=40,
).map("".join)


@given(st.one_of(SYNTAX, st.text()), st.sampled_from(DIALECTS), st.integers(1, 30))
def test_whatever_is_written_gives_a_script_or_an_invalid_field(
    text: str, dialect: PromptDialect, steps: int
) -> None:
    try:
        script = parse(reading(text, dialect=dialect).prompt, dialect, steps)
    except InvalidField:
        return
    firsts = [first for first, _ in script]
    assert firsts[0] == 0
    assert firsts == sorted(set(firsts))
    assert firsts[-1] < steps
    assert all(abs(sum(part.shares)) < 1e6 for _, composition in script for part in composition)


TAGGED = st.lists(
    st.sampled_from(
        ["<lora:", "a", ":0.5", ">", "withLora(", "b, 2)", ")", "(", "(x)++", "[y]", " "]
    ),
    max_size=20,
).map("".join)


@given(TAGGED, TAGGED, st.sampled_from([None, *DIALECTS]))
def test_what_was_read_is_read_the_same_when_it_is_stated(
    prompt: str, negative: str, dialect: PromptDialect | None
) -> None:
    try:
        once = reading(prompt, negative, dialect)
    except InvalidField:
        return
    again = read(
        TextToImage(
            id="r",
            prompt=once.prompt,
            negative_prompt=once.negative,
            prompt_dialect=once.dialect,
            loras=list(once.loras),
        )
    )
    assert again == replace(once, idle=False)


@given(st.text(st.characters(exclude_characters="()[]\\", exclude_categories=["Cs"])))
def test_text_without_syntax_says_itself_whatever_the_dialect(text: str) -> None:
    if "<" in text or reading(text).dialect != "plain":  # BREAK
        return
    assert bare(parse(text, "plain", 20)[0][1]) == text
    if not any(word in text for word in ("AND", "BREAK")):
        assert bare(parse(text, "webui", 20)[0][1]) == text


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "text",
    [
        "(" * 20_000,
        "(" * 10_000 + ")" * 10_000,
        "[" * 10_000 + "]" * 10_000,
        "( " * 10_000,
        "(a " * 5_000 + ")" * 5_000,
        "[a:" * 6_000,
        "[a|" * 5_000 + "]" * 5_000,
        "[a:" * 4_000 + ":1]" * 2_500,
        '("' * 10_000,
        '"' * 20_000,
        "\\" * 20_000,
        "\\-x" * 6_000,
        ": " * 10_000,
        " " * 20_000,
        "(a)+" * 5_000,
        "BREAK " * 3_300,
        "<lora:" * 3_300,
        "withLora(" * 2_200,
        "a." * 10_000,
    ],
    ids=lambda text: text[:6],
)
def test_length_and_depth_cost_no_more_than_their_characters(
    text: str, dialect: PromptDialect
) -> None:
    words = Words({"a", "a-b", "<x"})
    began = time.perf_counter()
    try:
        reading(text)
        parse(text, dialect, 20)
        list(words.split(text))
    except InvalidField:
        pass
    # about 0.1 s; were any of it quadratic in 20,000 characters, a minute would not do
    assert time.perf_counter() - began < 5


def test_a_weight_that_would_overflow_is_refused() -> None:
    for text in ("(" * 200 + "x", "(x:1001)", "(" * 10_000 + "(x:0)"):
        with pytest.raises(InvalidField, match="weight"):
            parse(text, "webui", 20)
    with pytest.raises(InvalidField, match="weight"):
        parse("(x)" + "+" * 10_000, "compel", 20)


@pytest.mark.parametrize(
    "text",
    [
        "[|]" * 6_600,
        "[a|b]" + "((x)) " * 3_000,
        "".join(f"[a{i}::{i}]" for i in range(100)) + "()" * 9_000,
        "[a|" * 4_000 + "]" * 4_000,
    ],
    ids=["turns", "brackets", "texts", "depth"],
)
def test_a_schedule_that_is_too_much_to_read_is_refused_at_once(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(InvalidField, match="1000 steps"):
        parse(text, "webui", 1000)
    # about 0.1 s; unbounded, minutes
    assert time.perf_counter() - began < 10


def test_a_schedule_as_people_write_them_is_read_whatever_the_number_of_steps() -> None:
    text = "a [cat|dog] (in the [rain:sun:0.5]:1.2), " + "words [of|more] (kinds:1.1), " * 20
    assert len(parse(text, "webui", 1000)) == 1000


def test_equal_texts_are_one_composition() -> None:
    script = parse("[a|b] c", "webui", 100)
    assert len(script) == 100
    assert len({id(composition) for _, composition in script}) == 2
