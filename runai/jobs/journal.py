"""What the log is told of jobs, and by construction nothing else.

Theory of operation. A note is a fixed sentence and some of the named `Fields`; there is no
other way for a request to get into the log than `describe`, which knows no prompt and no
picture unless it was asked for prompts. Jobs change under the ledger's lock and nothing may be
written under it, so what happens is noted there and published by whoever has let go of it.

One thread may publish what another has noted, so two lines can change places; nothing is lost.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TypedDict

from runai.schema.requests import GenerationRequest
from runai.schema.stages import Stage

log = logging.getLogger("runai.jobs")


class Fields(TypedDict, total=False):
    """Everything that may stand beside a line's sentence; seconds and counts are the server's."""

    job: str  # its number in this server
    client: int
    request: str  # the id that the client chose
    task: str
    model: str
    width: int
    height: int
    steps: int
    pictures: int
    sampler: str
    loras: int  # how many
    given_bytes: int  # of the pictures that came with it
    position: int
    code: str
    queue_s: float
    load_s: float
    encode_s: float
    step_s: float
    decode_s: float
    png_s: float
    total_s: float
    prompt: str  # only with --log-prompts
    negative_prompt: str  # likewise


SECONDS: dict[Stage, str] = {
    "queue": "queue_s",
    "load": "load_s",
    "encode": "encode_s",
    "step": "step_s",
    "decode": "decode_s",
    "png": "png_s",
}


def picture_bytes(request: GenerationRequest) -> int:
    """Of the pictures that came with a request."""
    given = (getattr(request, name, None) for name in ("image", "mask_image"))
    return sum(len(picture) for picture in given if picture is not None)


def describe(request: GenerationRequest, *, prompts: bool = False) -> Fields:
    """What the log may say of a request; what it left open is left out."""
    said = Fields(
        request=request.id,
        task=request.task,
        pictures=request.num_images,
        loras=len(request.loras),
        given_bytes=picture_bytes(request),
    )
    if request.model:
        said["model"] = request.model
    if request.width and request.height:
        said["width"], said["height"] = request.width, request.height
    if request.num_inference_steps is not None:
        said["steps"] = request.num_inference_steps
    if request.sampler is not None:
        said["sampler"] = request.sampler
    if prompts:
        said["prompt"], said["negative_prompt"] = request.prompt, request.negative_prompt
    return said


class Journal:
    """Notes on their way to the log. Any thread."""

    def __init__(self) -> None:
        self._notes: deque[tuple[int, str, Fields]] = deque()

    def note(self, level: int, sentence: str, fields: Fields) -> None:
        """Keep it for `publish`."""
        self._notes.append((level, sentence, fields))

    def publish(self) -> None:
        """Tell the log what was noted. No lock may be held."""
        while self._notes:
            try:
                level, sentence, fields = self._notes.popleft()
            except IndexError:  # another thread was faster
                return
            log.log(level, sentence, extra={"fields": fields})
