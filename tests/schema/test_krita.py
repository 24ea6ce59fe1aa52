"""The plugin's vocabulary: what it sends is understood, and what it gets does not break it."""

from __future__ import annotations

import base64
import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from runai.errors import InvalidField, NotOffered, RequestError, RunAIError, UnknownAction
from runai.schema.dialects import reply_to, understand
from runai.schema.dialects.krita import OPTIONS, greeting
from runai.schema.events import (
    Accepted,
    Canceled,
    Completed,
    Converted,
    ErrorBody,
    Event,
    Failed,
    Loading,
    Models,
    Parameters,
    Picture,
    Preview,
    Progress,
)
from runai.schema.requests import SHORTCUTS, Convert
from tests.schema.asked import PNG, plugin

ACTIONS = ("txt2img", "img2img", "inpaint", "outpaint")
PIXELS = b"\x89PNG"


def fields(action: str = "txt2img", **options: Any) -> dict[str, Any]:
    """The native request that a plugin's message means, without its made-up id."""
    command = understand(plugin(action, **options)).command
    return command.model_dump(exclude={"type", "id"})


def wrong(message: dict[str, Any]) -> RunAIError:
    with pytest.raises(RequestError) as caught:
        understand(message)
    return caught.value


def sent(event: Event, message: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """What the plugin gets to read for an event."""
    return [json.loads(body) for body in reply_to(message or plugin()).render(event)]


def test_a_txt2img_is_read_whole() -> None:
    assert fields() == {
        "task": "txt2img",
        "model": "v1/paint.safetensors",
        "model_version": "v1",
        "model_fallback": False,
        "prompt": "txt2img prompt",
        "negative_prompt": "not txt2img",
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "sampler": "euler_a",
        "eta": 0.0,
        "seed": 42,
        "num_images": 1,
        "preview": False,
        "nsfw_filter": False,
        "prompt_dialect": None,
        "clip_skip": 0,
        "loras": [],
        "vae": "",
        "image_guidance_scale": 1.5,
        **SHORTCUTS,
        "memory_plan": None,
        "watermark": False,
        "width": 576,
        "height": 512,
    }


@pytest.mark.parametrize("action", ACTIONS)
def test_only_the_keys_of_the_own_tab_are_read(action: str) -> None:
    others = {f"{other}_steps": "broken" for other in ACTIONS if other != action}
    read = fields(action, **others)
    assert read["task"] == action
    assert read["prompt"] == f"{action} prompt"


@pytest.mark.parametrize(
    ("action", "pictures"),
    [
        ("txt2img", {}),
        ("img2img", {"image": PIXELS}),
        ("inpaint", {"image": PIXELS, "mask_image": PIXELS}),
        ("outpaint", {"image": PIXELS, "mask_image": PIXELS}),
    ],
)
def test_pictures_are_read_where_the_task_has_them(action: str, pictures: dict[str, bytes]) -> None:
    read = fields(action)
    assert {key: read[key] for key in ("image", "mask_image") if key in read} == pictures


def test_strength_is_read_for_img2img_and_everything_is_repainted_elsewhere() -> None:
    assert fields("img2img", img2img_strength="0.3")["strength"] == 0.3
    assert fields("inpaint", inpaint_strength=0.3)["strength"] == 1.0


def test_an_outpaint_without_a_mask_means_the_transparent_part() -> None:
    assert fields("outpaint", mask=None)["mask_image"] is None


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"txt2img_steps": "20"}, "num_inference_steps", 20),
        ({"txt2img_steps": "20.0"}, "num_inference_steps", 20),
        ({"txt2img_steps": 20.0}, "num_inference_steps", 20),
        ({"txt2img_scale": "7.5"}, "guidance_scale", 7.5),
        ({"txt2img_scale": 7}, "guidance_scale", 7.0),
        ({"txt2img_seed": "4294967295"}, "seed", 4294967295),
        ({"txt2img_seed": 4294967295}, "seed", 4294967295),
        ({"txt2img_seed": 2**53 + 1}, "seed", 2**53 + 1),
        ({"txt2img_seed": "0"}, "seed", 0),
        ({"txt2img_width": "1088"}, "width", 1088),
        ({"txt2img_ddim_eta": "0.5"}, "eta", 0.5),
        ({"txt2img_scheduler": "plms"}, "sampler", "pndm"),
        ({"txt2img_scheduler": "DPM++ 2M Karras"}, "sampler", "dpmpp_2m_karras"),
        ({"do_nsfw_filter": "true"}, "nsfw_filter", True),
        ({"do_nsfw_filter": "False"}, "nsfw_filter", False),
        ({"do_nsfw_filter": 1}, "nsfw_filter", True),
        ({"txt2img_n_samples": "2", "txt2img_n_iter": "3"}, "num_images", 6),
        ({"version": "v2"}, "model_version", "v2"),
        ({"version": "v1 (community)"}, "model_version", "v1"),
        ({"version": "v2 (community)"}, "model_version", "v2"),
        ({"version": ""}, "model_version", "v1"),
        ({"version": None}, "model_version", "v1"),
    ],
    ids=str,
)
def test_values_that_passed_through_an_ini_file_are_read(
    options: dict[str, Any], field: str, value: object
) -> None:
    read = fields(**options)[field]
    assert (read, type(read)) == (value, type(value))


def test_what_is_left_out_or_null_takes_the_plugins_defaults() -> None:
    command = understand({"action": "txt2img", "options": {"txt2img_seed": None}}).command
    read = command.model_dump()
    assert (read["seed"], read["width"], read["height"]) == (42, 512, 512)
    assert (read["num_inference_steps"], read["guidance_scale"]) == (20, 7.5)
    assert (read["sampler"], read["num_images"]) == ("euler_a", 1)


def test_every_request_has_an_id_of_its_own() -> None:
    ids = {understand(plugin()).command.id for _ in range(10)}  # type: ignore[union-attr]
    assert len(ids) == 10


WRONG = [
    ("txt2img", {"txt2img_steps": "many"}, "txt2img_steps"),
    ("txt2img", {"txt2img_steps": "20.5"}, "txt2img_steps"),
    ("txt2img", {"txt2img_steps": True}, "txt2img_steps"),
    ("txt2img", {"txt2img_steps": []}, "txt2img_steps"),
    ("txt2img", {"txt2img_steps": 0}, "txt2img_steps"),
    ("txt2img", {"txt2img_steps": float("nan")}, "txt2img_steps"),
    ("txt2img", {"txt2img_scale": {}}, "txt2img_scale"),
    ("txt2img", {"txt2img_scale": "nan"}, "txt2img_scale"),
    ("txt2img", {"txt2img_scale": 10**400}, "txt2img_scale"),
    ("txt2img", {"txt2img_seed": "-1"}, "txt2img_seed"),
    ("txt2img", {"txt2img_seed": "1e400"}, "txt2img_seed"),
    ("txt2img", {"txt2img_width": "0"}, "txt2img_width"),
    ("txt2img", {"txt2img_height": 100_000}, "txt2img_height"),
    ("img2img", {"img2img_width": 513}, "img2img_width"),
    ("txt2img", {"txt2img_prompt": 3}, "txt2img_prompt"),
    ("txt2img", {"txt2img_scheduler": "magic"}, "txt2img_scheduler"),
    ("txt2img", {"txt2img_scheduler": 3}, "txt2img_scheduler"),
    ("txt2img", {"txt2img_ddim_eta": 2}, "txt2img_ddim_eta"),
    ("txt2img", {"txt2img_n_samples": 0}, "txt2img_n_samples"),
    ("txt2img", {"txt2img_n_iter": "x"}, "txt2img_n_iter"),
    ("txt2img", {"txt2img_model": 3}, "txt2img_model"),
    ("txt2img", {"txt2img_model": "m" * 1025}, "txt2img_model"),
    ("txt2img", {"model_base_path": {}}, "model_base_path"),
    ("txt2img", {"version": "v3"}, "version"),
    ("txt2img", {"version": 2}, "version"),
    ("txt2img", {"do_nsfw_filter": "maybe"}, "do_nsfw_filter"),
    ("img2img", {"img2img_strength": "1.5"}, "img2img_strength"),
    ("img2img", {"pixels": None}, "pixels"),
    ("img2img", {"pixels": ""}, "pixels"),
    ("img2img", {"pixels": "%%%"}, "pixels"),
    ("img2img", {"pixels": 3}, "pixels"),
    ("inpaint", {"mask": None}, "mask"),
    ("inpaint", {"mask": "%%%"}, "mask"),
    ("inpaint", {"pixels": None}, "pixels"),
    ("outpaint", {"mask": 3}, "mask"),
]


@pytest.mark.parametrize(("action", "options", "key"), WRONG, ids=lambda part: str(part)[:60])
def test_an_error_names_the_plugins_own_key(action: str, options: dict[str, Any], key: str) -> None:
    error = wrong(plugin(action, **options))
    assert isinstance(error, InvalidField)
    assert error.field == key
    assert len(str(error)) < 500


def test_a_missing_picture_names_the_plugins_own_key() -> None:
    message = plugin("inpaint")
    del message["options"]["pixels"]
    assert wrong(message).field == "pixels"


@pytest.mark.parametrize("options", [None, [], "text", 3])
def test_options_that_are_no_object_are_named(options: object) -> None:
    assert wrong({"action": "txt2img", "options": options}).field == "options"


@pytest.mark.parametrize("action", [None, 4, "", "draw", [], {}, "x" * 10_000])
def test_an_unknown_action_is_refused_with_the_known_ones(action: object) -> None:
    error = wrong({"action": action, "options": {}})
    assert isinstance(error, UnknownAction)
    assert all(known in error.hint for known in ACTIONS)
    assert len(str(error)) < 300


@pytest.mark.parametrize("form", ["ckpt", "safetensors", "diffusers"])
def test_convert_is_the_native_one(form: str) -> None:
    options = {
        "convert_model": "/models/v1/a.ckpt",
        "convert_model_version": "v1",
        "convert_data_type": "fp16",
        "convert_model_output_type": form,
        "model_base_path": "/models",
    }
    command = understand({"action": "convert", "options": options}).command
    assert isinstance(command, Convert)
    assert (command.model, command.form) == ("v1/a.ckpt", form)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"convert_model_output_type": "ckpt"}, "convert_model"),
        ({"convert_model": "a", "convert_model_output_type": "gguf"}, "convert_model_output_type"),
        ({"convert_model": "a"}, "convert_model_output_type"),
        ({"convert_model": 7, "convert_model_output_type": "ckpt"}, "convert_model"),
    ],
)
def test_an_error_in_convert_names_the_plugins_key(options: dict[str, Any], field: str) -> None:
    error = wrong({"action": "convert", "options": options})
    assert isinstance(error, InvalidField) and error.field == field


def test_a_conversion_that_is_done_breaks_no_plugin() -> None:
    """It ignores what it does not know, if it has none of the keys that it looks for."""
    [body] = reply_to({"action": "convert"}).render(Converted(id="krita-1", path="/a"))
    assert not {"image", "versions", "action"} & json.loads(body).keys()


def test_what_is_not_offered_is_refused_with_the_reason() -> None:
    first, second = wrong({"action": "update"}), wrong({"action": "update"})
    assert isinstance(first, NotOffered)
    assert first.field == "action"
    assert first is not second  # a raised error holds its caller's frames


def test_a_fresh_profile_falls_back_to_the_versions_default() -> None:
    fresh = fields(
        txt2img_model="stabilityai/stable-diffusion-2-1-base/v2-1",
        version="v1",
        model_path="",
        model_base_path="",
    )
    assert fresh["model_fallback"] is True
    assert fresh["model_version"] == "v1"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"txt2img_model": "/models/v1/a.ckpt"}, "v1/a.ckpt"),
        ({"txt2img_model": "/models/v1/a.ckpt", "model_base_path": "/models/"}, "v1/a.ckpt"),
        ({"txt2img_model": "/models2/v1/a.ckpt"}, "/models2/v1/a.ckpt"),
        ({"txt2img_model": "v1/a.ckpt"}, "v1/a.ckpt"),
        ({"txt2img_model": "", "model": "v1/b.ckpt"}, "v1/b.ckpt"),
        ({"txt2img_model": None}, "v1/paint.safetensors"),
        ({"txt2img_model": "C:\\m\\v1\\a.ckpt", "model_base_path": "C:\\m"}, "v1\\a.ckpt"),
    ],
    ids=str,
)
def test_a_models_name_is_its_path_below_the_base_path(options: dict[str, Any], name: str) -> None:
    assert fields(**options)["model"] == name


def completed(*pngs: bytes) -> Completed:
    parameters = Parameters.model_construct()
    images = [Picture(png=png, seed=1) for png in pngs]
    return Completed.model_construct(id="a", images=images, parameters=parameters)


def test_every_picture_is_sent_with_all_the_keys() -> None:
    reqtype = plugin("inpaint", pos_x="3", pos_y="-4")
    assert sent(completed(b"one", b"two"), reqtype) == [
        {
            "image": base64.b64encode(png).decode(),
            "reqtype": "inpaint",
            "pos_x": 3,
            "pos_y": -4,
        }
        for png in (b"one", b"two")
    ] + [{"action": 4, "reqtype": "inpaint", "step": 1, "total": 1}]


def test_a_failure_names_the_plugins_key() -> None:
    error = ErrorBody(code="x", message="m", hint="h", field="width")
    failed, _ = sent(Failed(id="a", error=error), plugin("inpaint"))
    assert failed["error"]["field"] == "inpaint_width"


@pytest.mark.parametrize(
    ("event", "step", "total"),
    [
        (Progress(id="a", step=0, total=20), 0, 20),
        (Progress(id="a", step=1, total=20), 0, 20),
        (Progress(id="a", step=20, total=20), 19, 20),
        (Loading(id="a", model="m"), 0, 0),
    ],
    ids=str,
)
def test_progress_is_sent_with_all_the_keys_and_never_resets_the_bar(
    event: Event, step: int, total: int
) -> None:
    assert sent(event) == [{"action": 4, "reqtype": "txt2img", "step": step, "total": total}]


@pytest.mark.parametrize(
    "event",
    [Failed(error=ErrorBody(code="limit", message="m", hint="h")), Canceled(id="a")],
    ids=lambda event: event.type,
)
def test_an_end_without_pictures_is_told_and_puts_the_bar_to_rest(event: Event) -> None:
    told, rest = sent(event)
    assert told["type"] == event.type
    assert rest == {"action": 4, "reqtype": "txt2img", "step": 1, "total": 1}


@pytest.mark.parametrize(
    "event",
    [
        Accepted(id="a", position=0),
        Preview(id="a", index=0, step=1, png=b"png"),
        Models(models=[]),
    ],
    ids=lambda event: event.type,
)
def test_what_the_plugin_has_no_use_for_is_not_sent(event: Event) -> None:
    assert sent(event) == []


def test_the_greeting_has_all_three_versions() -> None:
    assert json.loads(greeting("1.2")) == {
        "versions": {
            "latest_ksd_version": "",
            "latest_runai_version": "1.2",
            "current_runai_version": "1.2",
        }
    }


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"action": 4},
        {"action": []},
        {"action": "txt2img", "options": None},
        {"action": "outpaint", "options": {"pos_x": "left", "pos_y": {}}},
    ],
    ids=str,
)
def test_a_broken_message_is_answered_in_words_that_do_not_break_the_plugin(
    message: dict[str, Any],
) -> None:
    for answer in [
        *sent(completed(b"png"), message),
        *sent(Progress(id="a", step=1, total=2), message),
    ]:
        assert answer["reqtype"] in ACTIONS
        assert all(isinstance(answer.get(key, 0), int) for key in ("pos_x", "pos_y", "step"))


keys = st.sampled_from(
    [f"{tab}_{o.key[2:]}" for o in OPTIONS if o.key[:2] == "A_" for tab in ACTIONS]
    + ["pixels", "mask", "version", "model", "model_path", "model_base_path", "pos_x"]
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = leaves | st.just(PNG) | st.lists(leaves, max_size=2) | st.just({})


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(action=st.sampled_from(ACTIONS), options=st.dictionaries(keys, values, max_size=6))
def test_whatever_the_options_hold_they_are_a_request_or_an_error_that_can_be_sent(
    action: str, options: dict[str, Any]
) -> None:
    try:
        understand({"action": action, "options": options})
    except RequestError as error:
        assert error.field is None or error.field in {*options, "pixels", "mask"}
        assert sent(Failed(error=ErrorBody.of(error)))


def test_numbers_that_no_field_could_hold_name_the_key() -> None:
    huge = 10**4200
    options = {"txt2img_n_iter": huge, "txt2img_n_samples": huge}
    with pytest.raises(InvalidField) as caught:
        understand({"action": "txt2img", "options": options})
    assert caught.value.field in options
