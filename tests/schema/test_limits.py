"""The server's bounds are inclusive, and each refusal names its field."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runai.errors import LimitError, TooManyImages, TooManyPixels, TooManySteps
from runai.schema.limits import Limits
from runai.schema.requests import GenerationRequest, ImageToImage, TextToImage

LIMITS = Limits(max_pixels=512 * 512, max_steps=30, max_images=4, max_input_pixels=100 * 100)


@pytest.mark.parametrize(
    "request_",
    [
        TextToImage(id="a"),
        TextToImage(id="a", width=512, height=512, num_inference_steps=30, num_images=4),
        TextToImage(id="a", width=1024, height=256),
        TextToImage(id="a", width=16384),  # the other side is the model's to choose
        ImageToImage(id="a", image=b"png"),
    ],
    ids=str,
)
def test_what_is_at_a_bound_or_below_is_allowed(request_: GenerationRequest) -> None:
    LIMITS.check(request_)


@pytest.mark.parametrize(
    ("request_", "error", "field"),
    [
        (TextToImage(id="a", width=512, height=520), TooManyPixels, "width"),
        (ImageToImage(id="a", image=b"png", width=16384, height=16384), TooManyPixels, "width"),
        (TextToImage(id="a", num_inference_steps=31), TooManySteps, "num_inference_steps"),
        (TextToImage(id="a", num_images=5), TooManyImages, "num_images"),
    ],
    ids=str,
)
def test_what_is_past_a_bound_is_refused_with_both_numbers(
    request_: GenerationRequest, error: type[LimitError], field: str
) -> None:
    with pytest.raises(error) as caught:
        LIMITS.check(request_)
    assert type(caught.value) is error
    assert caught.value.field == field
    assert sum(char.isdigit() for char in caught.value.message) >= 2


@pytest.mark.parametrize(
    ("check", "largest", "flag"),
    [
        (LIMITS.check_size, (512, 512), "--max-pixels"),
        (LIMITS.check_input, (100, 100), "--max-input-pixels"),
    ],
)
def test_what_is_drawn_and_what_is_read_have_bounds_of_their_own(
    check: Callable[..., None], largest: tuple[int, int], flag: str
) -> None:
    width, height = largest
    check(width, height - 1, field="image")
    check(width, height, field="image")
    with pytest.raises(TooManyPixels, match=rf"at most {width * height} .*{flag}\.") as caught:
        check(width, height + 1, field="image")
    assert caught.value.field == "image"
