"""What is asked for: from the dock's fields and the selection to a request.

The task follows from three things: how much may change (`strength`), whether only the selection is
to be repainted, and whether there is a picture where it is to be drawn. Pure: pictures are
PNG files as bytes.
"""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

from .geometry import Box, rounded_out, with_context

EVERYTHING = 100  # of strength, in percent: nothing is kept
NAME_LETTERS = 40


class Refused(Exception):
    """Not even asked: what is wrong, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Wish(NamedTuple):
    """The dock's fields. 0 and None: what the model does well with, or any seed."""

    prompt: str = ""
    negative_prompt: str = ""
    model: str = ""
    strength: int = EVERYTHING
    only_selection: bool = False
    steps: int = 0
    guidance: float = 0.0
    seed: int | None = None


class Limits(NamedTuple):
    """From the server's hello."""

    max_pixels: int
    max_steps: int


class Plan(NamedTuple):
    """What will be done, and where. `box` is what the server draws."""

    task: str
    box: Box


def plan(wish: Wish, selected: Box | None, document: Box) -> Plan:
    """Raises Refused if there is nothing to draw on."""
    inside = selected.within(document) if selected is not None else document
    if inside is None:
        raise Refused("What is selected lies outside of the picture.", "Select a part of it.")
    if wish.only_selection:
        if selected is None:
            raise Refused("Nothing is selected.", "Select what is to be repainted.")
        return Plan("inpaint", rounded_out(with_context(inside, document), document))
    task = "txt2img" if wish.strength >= EVERYTHING else "img2img"
    return Plan(task, rounded_out(inside, document))


def without_picture(planned: Plan) -> Plan:
    """What becomes of the plan where there is no picture to change."""
    return planned._replace(task="txt2img") if planned.task == "img2img" else planned


SENTENCES = {
    "txt2img": "Draws {size}{where} from the words alone.",
    "img2img": "Changes {size}{where} by {strength} %.",
    "inpaint": "Repaints the selection, and sees {size} around it.",
}


def sentence(planned: Plan, wish: Wish, is_selected: bool) -> str:
    """The plan in words."""
    return SENTENCES[planned.task].format(
        size=f"{planned.box.width} × {planned.box.height}",
        where=" in the selection" if is_selected else "",
        strength=wish.strength,
    )


def check(planned: Plan, wish: Wish, limits: Limits) -> None:
    """Raises Refused for what the server would not take."""
    width, height = planned.box.width, planned.box.height
    if planned.task == "txt2img" and not wish.prompt.strip():
        raise Refused("There is no prompt.", "Write what is to be drawn.")
    if width * height > limits.max_pixels:
        side = int(limits.max_pixels**0.5)
        raise Refused(
            f"{width} × {height} is more than this server draws at once.",
            f"Select a smaller part: {side} × {side} fits.",
        )
    if wish.steps > limits.max_steps:
        raise Refused(
            f"{wish.steps} steps are more than this server does.",
            f"Ask for at most {limits.max_steps}.",
        )


def request(
    request_id: str, wish: Wish, planned: Plan, image: bytes | None, mask: bytes | None
) -> dict[str, Any]:
    """The message. `image`, `mask`: PNG files of the plan's box, if the task wants them."""
    message: dict[str, Any] = {
        "type": "generate",
        "task": planned.task,
        "id": request_id,
        "prompt": wish.prompt,
        "negative_prompt": wish.negative_prompt,
        "model": wish.model,
        "num_inference_steps": wish.steps or None,
        "guidance_scale": wish.guidance or None,
        "seed": wish.seed,
        "width": planned.box.width,
        "height": planned.box.height,
        "preview": True,
    }
    if planned.task != "txt2img":
        message["strength"] = wish.strength / EVERYTHING
        message["image"] = _text(image)
    if planned.task == "inpaint":
        message["mask_image"] = _text(mask)
    return message


def _text(picture: bytes | None) -> str:
    return base64.b64encode(picture or b"").decode("ascii")


def layer_name(prompt: str, seed: int) -> str:
    words = " ".join(prompt.split()) or "RunAI"
    short = words if len(words) <= NAME_LETTERS else words[: NAME_LETTERS - 1].rstrip() + "…"
    return f"{short} ({seed})"
