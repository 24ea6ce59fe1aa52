"""The bounds a server sets on requests beyond what the types allow, as one pure check."""

from __future__ import annotations

from dataclasses import dataclass

from runai.errors import TooManyImages, TooManyPixels, TooManySteps
from runai.schema.requests import GenerationRequest

INPUT_HINT = "Send a smaller picture, or start the server with a larger --max-input-pixels."


@dataclass(frozen=True)
class Limits:
    """Server-wide bounds; all inclusive."""

    max_pixels: int = 2048 * 2048
    max_steps: int = 200
    max_images: int = 16
    max_input_pixels: int = 4096 * 4096
    max_json_depth: int = 32

    def check(self, request: GenerationRequest) -> None:
        """Raise the LimitError that names the bound `request` is past, if any."""
        if (request.num_inference_steps or 0) > self.max_steps:
            raise TooManySteps(
                f"{request.num_inference_steps} steps were asked for; at most "
                f"{self.max_steps} are done.",
                field="num_inference_steps",
            )
        if request.num_images > self.max_images:
            raise TooManyImages(
                f"{request.num_images} images were asked for; at most {self.max_images} are drawn.",
                field="num_images",
            )
        self.check_size(request.width or 0, request.height or 0, field="width")

    def check_size(self, width: int, height: int, *, field: str) -> None:
        """Raise TooManyPixels if a picture of this size is past the bound of what is drawn."""
        if width * height > self.max_pixels:
            raise TooManyPixels(
                f"{width} × {height} is {width * height} pixels; at most "
                f"{self.max_pixels} are drawn.",
                field=field,
            )

    def check_input(self, width: int, height: int, *, field: str) -> None:
        """Raise TooManyPixels if a given picture of this size is past the bound of what is read."""
        if width * height > self.max_input_pixels:
            raise TooManyPixels(
                f"{width} × {height} is {width * height} pixels; at most "
                f"{self.max_input_pixels} are read.",
                hint=INPUT_HINT,
                field=field,
            )
