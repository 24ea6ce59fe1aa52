"""From the dock's fields to a request that the server understands."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from runai_krita.asking import (
    Limits,
    Plan,
    Refused,
    Wish,
    check,
    layer_name,
    plan,
    request,
    sentence,
    without_picture,
)
from runai_krita.geometry import Box

from runai.schema import codec
from runai.schema.requests import ImageToImage, Inpaint, TextToImage

PAGE = Box(0, 0, 512, 384)
PART = Box(64, 40, 128, 128)
LIMITS = Limits(max_pixels=512 * 512, max_steps=200)
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsDpmnwAAAABJRU5ErkJggg=="
)

PLANS: dict[str, tuple[dict[str, Any], Box | None, Plan]] = {
    "words into the selection": ({}, PART, Plan("txt2img", PART)),
    "words over all": ({}, None, Plan("txt2img", PAGE)),
    "a change of the selection": ({"strength": 60}, PART, Plan("img2img", PART)),
    "a change of all": ({"strength": 99}, None, Plan("img2img", PAGE)),
    "a part repainted": ({"only_selection": True}, PART, Plan("inpaint", Box(32, 8, 192, 192))),
    "past the edge": ({}, Box(448, 320, 500, 500), Plan("txt2img", Box(448, 320, 64, 64))),
}


@pytest.mark.parametrize("case", PLANS)
def test_the_task_follows_from_strength_and_selection(case: str) -> None:
    fields, selected, planned = PLANS[case]
    assert plan(Wish(**fields), selected, PAGE) == planned


def test_where_there_is_no_picture_nothing_is_changed_but_drawn() -> None:
    assert without_picture(Plan("img2img", PART)) == Plan("txt2img", PART)
    assert without_picture(Plan("inpaint", PART)) == Plan("inpaint", PART)


@pytest.mark.parametrize(
    ("fields", "selected", "words"),
    [
        ({"only_selection": True}, None, "Nothing is selected"),
        ({}, Box(600, 0, 10, 10), "outside of the picture"),
    ],
)
def test_what_cannot_be_planned_is_refused(fields: Any, selected: Any, words: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        plan(Wish(**fields), selected, PAGE)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("fields", "box", "words"),
    [
        ({}, Box(0, 0, 520, 512), "520 × 512 is more than this server draws at once"),
        ({"steps": 201}, PART, "201 steps"),
        ({"prompt": " "}, PART, "no prompt"),
    ],
)
def test_what_the_server_would_not_take_is_refused(fields: Any, box: Box, words: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        check(Plan("txt2img", box), Wish(**{"prompt": "a star", **fields}), LIMITS)
    assert caught.value.hint


def test_limits_are_inclusive() -> None:
    check(Plan("txt2img", Box(0, 0, 512, 512)), Wish("a star", steps=200), LIMITS)


def test_pictures_may_be_changed_without_words() -> None:
    check(Plan("img2img", PART), Wish(), LIMITS)


@pytest.mark.parametrize(
    ("task", "kind"), [("txt2img", TextToImage), ("img2img", ImageToImage), ("inpaint", Inpaint)]
)
def test_the_server_understands_each_request(task: str, kind: type) -> None:
    wish = Wish("a star", "a circle", "v1/x", strength=60, steps=9, guidance=3.5, seed=0)
    message = request("r1", wish, Plan(task, PART), PNG, PNG)
    understood: Any = codec.parse_command(message)
    assert isinstance(understood, kind)
    assert (understood.id, understood.prompt, understood.negative_prompt) == (
        "r1",
        "a star",
        "a circle",
    )
    assert (understood.width, understood.height, understood.preview) == (128, 128, True)
    assert (understood.num_inference_steps, understood.guidance_scale) == (9, 3.5)
    assert (understood.seed, understood.model) == (0, "v1/x")
    assert getattr(understood, "strength", 0.6) == 0.6
    assert getattr(understood, "image", PNG) == PNG == getattr(understood, "mask_image", PNG)


def test_what_is_left_empty_is_the_models_own() -> None:
    understood: Any = codec.parse_command(
        request("r1", Wish("a star"), Plan("txt2img", PART), None, None)
    )
    asked = (understood.num_inference_steps, understood.guidance_scale, understood.seed)
    assert asked == (None, None, None)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a star", "a star (7)"),
        ("a\n  star", "a star (7)"),
        ("", "RunAI (7)"),
        ("x" * 41, "x" * 39 + "… (7)"),
    ],
)
def test_layers_are_named_after_prompt_and_seed(prompt: str, name: str) -> None:
    assert layer_name(prompt, 7) == name


@pytest.mark.parametrize("case", PLANS)
def test_each_plan_has_a_sentence_with_its_size(case: str) -> None:
    fields, selected, planned = PLANS[case]
    said = sentence(planned, Wish(**fields), selected is not None)
    assert f"{planned.box.width} × {planned.box.height}" in said
    assert ("selection" in said) == (selected is not None)
