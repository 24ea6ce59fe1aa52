"""What the server says, in the native protocol: one JSON object with a `type` per event.

Rule for old clients: no event may carry a key `image`, `versions` or `action`.
`accepted` comes first for a request, exactly one of `completed`, `failed`, `canceled` last.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runai.errors import RunAIError, all_errors
from runai.schema.fields import ImageData, Model

ServerState = Literal["starting", "loading", "ready", "stopping"]


class ErrorBody(Model):
    """An error as data; codes are in docs/errors.md and never change."""

    code: str
    message: str = Field(description="what happened")
    hint: str = Field(description="what to do about it")
    field: str | None = Field(None, description="the request's field that is to blame")

    @classmethod
    def of(cls, error: RunAIError) -> ErrorBody:
        return cls(code=error.code, message=error.message, hint=error.hint, field=error.field)

    def to_exception(self) -> RunAIError:
        """The exception of that code; RunAIError itself for a code of a newer server."""
        cls = all_errors().get(self.code, RunAIError)
        return cls(self.message, hint=self.hint, field=self.field)


class Capabilities(Model):
    tasks: list[str]
    samplers: list[str]
    max_message_bytes: int
    max_pixels: int
    max_steps: int
    max_images: int


class HelloEvent(Model):
    """Answer to `hello`."""

    type: Literal["hello"] = "hello"
    server_version: str
    protocol: int
    state: ServerState
    capabilities: Capabilities


class Accepted(Model):
    """The request is taken and will get exactly one last answer."""

    type: Literal["accepted"] = "accepted"
    id: str
    position: int = Field(ge=0, description="requests that wait before this one")


class Loading(Model):
    """A model is being loaded for this request."""

    type: Literal["loading"] = "loading"
    id: str
    model: str


class Progress(Model):
    """Steps done of the request, over all its images."""

    type: Literal["progress"] = "progress"
    id: str
    step: int = Field(ge=0)
    total: int = Field(ge=0)
    seconds_left: float | None = None


class Preview(Model):
    """A small PNG of what image number `index` looks like by now."""

    type: Literal["preview"] = "preview"
    id: str
    index: int
    step: int
    png: ImageData


class Parameters(Model):
    """Every parameter that was used, defaults and fallbacks filled in."""

    task: str
    model: str
    prompt: str
    negative_prompt: str
    num_inference_steps: int
    guidance_scale: float
    sampler: str
    eta: float
    seed: int
    num_images: int
    width: int
    height: int
    strength: float | None = None


class Picture(Model):
    """One finished picture: an RGB PNG that carries its parameters as text chunks."""

    png: ImageData
    seed: int
    nsfw: bool = False


class Completed(Model):
    """The last event of a request that went well."""

    type: Literal["completed"] = "completed"
    id: str
    images: list[Picture]
    parameters: Parameters
    notes: list[str] = Field(default=[], description="what was done otherwise than asked")


class Failed(Model):
    """The last event of a request that failed; without an id: the message had none."""

    type: Literal["failed"] = "failed"
    id: str | None = None
    error: ErrorBody


class Canceled(Model):
    """The last event of a request that was canceled."""

    type: Literal["canceled"] = "canceled"
    id: str


class ModelInfo(Model):
    name: str = Field(description="what to write into a request's `model`")
    version: Literal["v1", "v2"]
    format: Literal["diffusers", "safetensors", "ckpt"]
    loaded: bool = False
    default: bool = False


class Models(Model):
    """Answer to `models`."""

    type: Literal["models"] = "models"
    models: list[ModelInfo]


class Status(Model):
    """Answer to `status`."""

    type: Literal["status"] = "status"
    state: ServerState
    detail: str = Field("", description="what is being loaded, say")
    clients: int
    queued: int
    running: int
    loaded_models: list[str]
    uptime_s: float


JobEvent = Accepted | Loading | Progress | Preview | Completed | Failed | Canceled
Event = Annotated[HelloEvent | JobEvent | Models | Status, Field(discriminator="type")]
TERMINAL = (Completed, Failed, Canceled)
