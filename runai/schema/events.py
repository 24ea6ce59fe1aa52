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
STATES = "requests are taken in all states but `stopping`"


class ErrorBody(Model):
    """An error as data; codes are in docs/errors.md and never change."""

    code: str = Field(description="what kind of error, for programs")
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
    """What this server can do, and its bounds, all inclusive."""

    tasks: list[str]
    samplers: list[str]
    max_message_bytes: int = Field(description="of a body, padding not counted")
    max_pixels: int = Field(description="width × height of a picture")
    max_steps: int = Field(description="`num_inference_steps` of a request")
    max_images: int = Field(description="`num_images` of a request")


class HelloEvent(Model):
    """Answer to `hello`."""

    type: Literal["hello"] = "hello"
    server_version: str
    protocol: int = Field(description="the newest protocol version the server speaks")
    state: ServerState = Field(description=STATES)
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
    model: str = Field(description="the model's name")


class Progress(Model):
    """Steps done of the request, over all its images."""

    type: Literal["progress"] = "progress"
    id: str
    step: int = Field(ge=0, description="steps done")
    total: int = Field(ge=0, description="steps in all")
    seconds_left: float | None = Field(None, description="an estimate")


class Preview(Model):
    """A small PNG of what image number `index` looks like by now."""

    type: Literal["preview"] = "preview"
    id: str
    index: int = Field(description="which of the request's images, from 0")
    step: int = Field(description="steps done of this image")
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
    seed: int = Field(description="draws this picture alone when asked for again")
    nsfw: bool = Field(False, description="the safety checker flagged it, so it is black")


class Completed(Model):
    """The last event of a request that went well."""

    type: Literal["completed"] = "completed"
    id: str
    images: list[Picture] = Field(description="as many as were asked for, by seed")
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
    """One entry of the catalogue."""

    name: str = Field(description="what to write into a request's `model`")
    version: Literal["v1", "v2"]
    format: Literal["diffusers", "safetensors", "ckpt"]
    loaded: bool = Field(False, description="in memory, so a request for it starts at once")
    default: bool = Field(False, description="taken for its version when none is named")


class Models(Model):
    """Answer to `models`."""

    type: Literal["models"] = "models"
    models: list[ModelInfo]


class Status(Model):
    """Answer to `status`."""

    type: Literal["status"] = "status"
    state: ServerState = Field(description=STATES)
    detail: str = Field("", description="what is being loaded, say")
    clients: int = Field(description="connections, observers among them")
    queued: int = Field(description="requests that wait")
    running: int = Field(description="requests that are being drawn")
    loaded_models: list[str] = Field(description="models in memory")
    uptime_s: float


JobEvent = Accepted | Loading | Progress | Preview | Completed | Failed | Canceled
Event = Annotated[HelloEvent | JobEvent | Models | Status, Field(discriminator="type")]
TERMINAL = (Completed, Failed, Canceled)
