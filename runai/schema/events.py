"""What the server says, in the native protocol: one JSON object with a `type` per event.

Rule for old clients: no event may carry a key `image`, `versions` or `action`.
`accepted` comes first for a request, exactly one of `completed`, `failed`, `canceled` last.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runai.errors import RunAIError, all_errors
from runai.schema.fields import ImageData, Model
from runai.schema.requests import Lora, MemoryPlan, PromptDialect
from runai.schema.stages import MEANINGS, Stage

Version = Literal["v1", "v2", "xl"]
Kind = Literal["model", "lora", "embedding", "vae"]
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
    max_json_depth: int = Field(description="objects and lists within each other, in a message")
    max_input_pixels: int = Field(description="width × height of a picture that is sent")
    max_pixels: int = Field(description="width × height of a picture that is drawn")
    max_steps: int = Field(description="`num_inference_steps` of a request")
    max_images: int = Field(description="`num_images` of a request")
    resume_s: float = Field(0.0, description="kept so long for a `session` whose connection broke")


class HelloEvent(Model):
    """Answer to `hello`."""

    type: Literal["hello"] = "hello"
    server_version: str
    protocol: int = Field(description="the newest protocol version the server speaks")
    state: ServerState = Field(description=STATES)
    capabilities: Capabilities
    open: list[str] = Field([], description="ids of the session's requests that are still open")


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
    """A PNG of what image number `index` looks like by now: small, or as large as it will be.

    Not all of one image need be of the same size.
    """

    type: Literal["preview"] = "preview"
    id: str
    index: int = Field(description="which of the request's images, from 0")
    step: int = Field(description="steps done of this image")
    png: ImageData


class Parameters(Model):
    """Every parameter that was used, defaults and fallbacks filled in.

    Sent back as a request, with the pictures it began from, they draw the same again.
    """

    task: str
    model: str
    model_hash: str | None = Field(None, description="the web UI's short hash, if known by now")
    prompt: str = Field(description="without the tags of LoRAs, which are in `loras`")
    negative_prompt: str
    prompt_dialect: PromptDialect = Field("plain", description="how the prompts were read")
    num_inference_steps: int
    guidance_scale: float
    image_guidance_scale: float | None = None
    guidance_start: float | None = Field(None, description="only where it is not 0")
    guidance_end: float | None = Field(None, description="only where it is not 1")
    reuse: int | None = Field(None, description="only where it is not 1")
    token_merging: float | None = Field(None, description="only where it is not 0")
    sampler: str
    eta: float
    clip_skip: int = 0
    loras: list[Lora] = Field([], description="those of the request, then those of its prompt")
    vae: str = ""
    seed: int
    num_images: int
    width: int
    height: int
    strength: float | None = None
    noise_level: int | None = None
    nsfw_filter: bool = Field(False, description="asked for; notes say if it was not done")
    watermark: bool = Field(False, description="asked for; notes say if it was not done")


class Memory(Model):
    """How a request was fitted into memory, and what that costs."""

    plan: MemoryPlan = Field(description="see Memory plans")
    reason: str = Field(description="what was needed and what was free, in words")
    needed_bytes: int = Field(description="the estimate for weights and drawing")
    free_bytes: int = Field(description="what the device had left for it")


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
    memory: Memory | None = Field(None, description="how it was fitted into memory")
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
    """One entry of the catalogue: a model, or a LoRA, embedding or VAE to use with one."""

    name: str = Field(description="what to write into a request's `model`, or `loras`, or `vae`")
    kind: Kind = "model"
    title: str = Field("", description="file name, with the short hash in brackets once known")
    arch: str = Field("", description="what it is: see Architectures; empty: unknown")
    version: Version | None = Field(None, description="empty: nothing tells")
    format: Literal["diffusers", "safetensors", "ckpt"]
    distillation: str | None = Field(None, description="of few steps: turbo, lightning, lcm, …")
    tiny: bool = Field(False, description="a VAE that is quick and not exact; see Fewer operations")
    tasks: list[str] = Field([], description="what a model can be asked for")
    sha256: str | None = Field(None, description="of the file, once computed")
    trigger_words: list[str] = Field([], description="what a LoRA was trained to answer to")
    metadata: dict[str, str] = Field({}, description="what its trainer wrote, shortened")
    loaded: bool = Field(False, description="in memory, so a request for it starts at once")
    default: bool = Field(False, description="taken for its version when none is named")


class Unusable(Model):
    """Something in the model folder that nothing can be done with, and why."""

    name: str
    reason: str


class Converted(Model):
    """Answer to `convert`: it is done. The weights are the same, in the same number format."""

    type: Literal["converted"] = "converted"
    id: str
    path: str = Field(description="the new file or folder, on the server's computer")


class Models(Model):
    """Answer to `models`."""

    type: Literal["models"] = "models"
    models: list[ModelInfo]
    unusable: list[Unusable] = Field([], description="what lies there and cannot be used")


Backend = Literal["torch", "openvino", "cuda-graphs"]


class Loaded(Model):
    """Something in memory."""

    name: str
    kind: Kind
    bytes: int = Field(description="of its weights")
    plan: MemoryPlan | None = Field(
        None, description="of a model: the plan that is in force for it"
    )
    backend: Backend = Field("torch", description="what draws pictures that begin now")
    in_use: bool = Field(False, description="drawn with now, so it is kept in any case")
    idle_s: float = Field(0.0, description="since it was last drawn with")


class Holdings(Model):
    """What the server holds in memory, the longest unused first."""

    loaded: list[Loaded] = Field([])
    loaded_bytes: int = Field(0, description="of all of `loaded`")
    free_bytes: int = Field(0, description="what the device could still take")
    max_bytes: int = Field(0, description="for all of this; 0: what the machine has")
    lora_bytes: int = Field(0, description="of LoRAs, which go with their models at the latest")
    backend_bytes: int = Field(
        0, description="of networks as OpenVINO has them, by estimate, and of CUDA graphs"
    )
    filter_bytes: int = Field(0, description="of the NSFW filter, which stays once it was used")
    prompt_cache_bytes: int = Field(0, description="of encoded prompts, kept for the next time")


class StageTimings(Model):
    """How long one stage of drawing took, since the server started."""

    stage: Stage = Field(
        description="; ".join(f"{name}: {what}" for name, what in MEANINGS.items())
    )
    count: int = Field(description="how often it was gone through")
    mean_s: float
    p50_s: float = Field(description="half of them took at most so long, to 5 %")
    p95_s: float = Field(description="19 of 20 took at most so long, to 5 %")


class CallTime(Model):
    """How long a UNet call takes. A picture takes one row of it, guided two, edited three."""

    rows: int
    seconds: float = Field(description="the median of the newest such calls")


class Counters(Model):
    """What there was since the server started. Each accepted request ends as one of three."""

    accepted: int = Field(0, description="requests that were taken")
    completed: int = Field(0, description="requests that ended with pictures")
    canceled: int = Field(0, description="requests that were canceled, or whose client left")
    failed: dict[str, int] = Field({}, description="accepted requests that failed, by error code")
    refused: dict[str, int] = Field({}, description="messages that were not taken, by error code")
    pictures: int = Field(0, description="finished ones")
    steps: int = Field(0, description="denoising steps, of each picture for itself")
    connections: int = Field(0, description="clients that got a seat, observers among them")
    connections_refused: int = Field(0, description="clients for whom there was none")
    received_bytes: int = Field(0, description="from clients")
    sent_bytes: int = Field(0, description="to clients")


class Status(Model):
    """Answer to `status`."""

    type: Literal["status"] = "status"
    state: ServerState = Field(description=STATES)
    detail: str = Field("", description="what is being loaded, say")
    clients: int = Field(description="connections, observers among them; who may come back, too")
    queued: int = Field(description="requests that wait")
    running: int = Field(description="requests that are being drawn")
    loaded_models: list[str] = Field(description="models in memory")
    memory: Memory | None = Field(None, description="the plan in force for the newest request")
    holdings: Holdings = Field(default_factory=Holdings, description="what is in memory")
    timings: list[StageTimings] = Field([], description="of each stage there was anything of yet")
    call_times: list[CallTime] = Field([], description="of the newest kind of UNet call")
    counters: Counters = Field(default_factory=Counters, description="since the start")
    uptime_s: float


JobEvent = Accepted | Loading | Progress | Preview | Completed | Failed | Canceled
Event = Annotated[HelloEvent | JobEvent | Converted | Models | Status, Field(discriminator="type")]
TERMINAL = (Completed, Failed, Canceled)
