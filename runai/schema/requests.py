"""What a client may ask, in the native protocol's words (those of diffusers).

Every message is one JSON object with a `type`. `generate` has four tasks that share their
fields. Units: sizes in pixels of the finished picture, strength and eta from 0 to 1,
guidance as in Ho & Salimans 2022 (1 = none), seeds as torch takes them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runai.schema.fields import ImageData, Model, Prompt, RequestId, SamplerName, Seed, Side, Unit

IMAGES_OWN = "none: the image's own, rounded down to a multiple of 8"
STRENGTH = "how much may change: 0 nothing, 1 everything"
MOST_LORAS = 32  # of a request, those its prompt names among them
# what makes a picture another than the exact one, and the values with which it does not
SHORTCUTS = {"guidance_start": 0.0, "guidance_end": 1.0, "reuse": 1, "token_merging": 0.0}

MemoryPlan = Literal["full", "tiling", "offload", "sequential"]
PromptDialect = Literal["plain", "webui", "compel"]


class Lora(Model):
    """A LoRA to draw with; several add up."""

    name: str = Field(min_length=1, max_length=1024, description="a name from `models`")
    weight: float = Field(1.0, ge=-10, le=10, allow_inf_nan=False, description="for the UNet")
    text_weight: float | None = Field(
        None, ge=-10, le=10, allow_inf_nan=False, description="for the text; none: as `weight`"
    )


class Generate(Model):
    """Common to all tasks. Image i of a request is drawn from `seed + i`."""

    type: Literal["generate"] = "generate"
    id: RequestId = Field(description="chosen by the client, unique among its open requests")
    model: str = Field("", max_length=1024, description="a name from `models`; empty: the default")
    model_version: Literal["v1", "v2", "xl"] | None = Field(
        None, description="which folder to look in, or whose default model to take"
    )
    model_fallback: bool = Field(
        False, description="an unknown model is replaced by the default, and a note says so"
    )
    prompt: Prompt = Field("", description="what to draw; see Prompts")
    negative_prompt: Prompt = Field("", description="what should not be in the picture")
    prompt_dialect: PromptDialect | None = Field(
        None, description="how both prompts are to be read; none: recognised"
    )
    clip_skip: int = Field(0, ge=0, le=11, description="last layers of the text encoder left out")
    loras: list[Lora] = Field([], max_length=MOST_LORAS, description="besides those in the prompt")
    vae: str = Field("", max_length=1024, description="instead of the model's own, from `models`")
    num_inference_steps: int | None = Field(
        None, ge=1, le=1000, description="denoising steps; none: what the model does well with"
    )
    guidance_scale: float | None = Field(
        None,
        ge=0.0,
        le=100.0,
        allow_inf_nan=False,
        description="how closely to follow the prompt, 1 or less: no guidance; none: the model's",
    )
    image_guidance_scale: float = Field(
        1.5,
        ge=1.0,
        le=100.0,
        allow_inf_nan=False,
        description="how closely an editing model keeps to the picture; others do not read it",
    )
    guidance_start: Unit = Field(
        0.0, description="the part of the steps after which guidance begins; see Fewer operations"
    )
    guidance_end: Unit = Field(
        1.0, description="the part of the steps after which guidance ends; see Fewer operations"
    )
    reuse: int = Field(
        1,
        ge=1,
        le=10,
        description="every how many steps the whole UNet is computed; see Fewer operations",
    )
    token_merging: float = Field(
        0.0,
        ge=0.0,
        le=0.75,
        allow_inf_nan=False,
        description="the part of the tokens that is merged for attention; see Fewer operations",
    )
    sampler: SamplerName | None = Field(None, description="see Samplers; none: the model's")
    eta: Unit = Field(0.0, description="DDIM's eta, TCD's gamma; others do not read it")
    seed: Seed | None = Field(None, description="none: chosen by the server and returned")
    num_images: int = Field(1, ge=1, le=64, description="how many pictures to draw")
    preview: bool = Field(False, description="send pictures of the work as it goes on")
    nsfw_filter: bool = Field(False, description="blacken what the safety checker flags")
    watermark: bool = Field(False, description="write an invisible watermark into the pictures")
    memory_plan: MemoryPlan | None = Field(
        None, description="see Memory plans; none: the fastest that fits"
    )


class TextToImage(Generate):
    """A picture from words alone; without a size, the model's own."""

    task: Literal["txt2img"] = "txt2img"
    width: Side | None = Field(None, description="none: the model's own")
    height: Side | None = Field(None, description="none: the model's own")


class ImageToImage(Generate):
    """A picture from words and a picture (SDEdit, Meng et al. 2021)."""

    task: Literal["img2img"] = "img2img"
    image: ImageData = Field(description="the picture to start from")
    strength: Unit = Field(0.8, description=STRENGTH)
    width: Side | None = Field(None, description=IMAGES_OWN)
    height: Side | None = Field(None, description=IMAGES_OWN)


class Inpaint(Generate):
    """Repaints where the mask is white and leaves the rest."""

    task: Literal["inpaint"] = "inpaint"
    image: ImageData = Field(description="the picture to repaint a part of")
    mask_image: ImageData = Field(description="white: repaint, black: keep")
    strength: Unit = Field(1.0, description=STRENGTH)
    width: Side | None = Field(None, description=IMAGES_OWN)
    height: Side | None = Field(None, description=IMAGES_OWN)


class Outpaint(Generate):
    """Fills what is empty: the transparent part of the image, or the white of the mask."""

    task: Literal["outpaint"] = "outpaint"
    image: ImageData = Field(description="the picture to fill, with what is to be kept in it")
    mask_image: ImageData | None = Field(None, description="white: fill; none: what is transparent")
    strength: Unit = Field(1.0, description=STRENGTH)
    width: Side | None = Field(None, description=IMAGES_OWN)
    height: Side | None = Field(None, description=IMAGES_OWN)


class Upscale(Generate):
    """Draws the picture again, four times as large each way, with an upscaling model."""

    task: Literal["upscale"] = "upscale"
    image: ImageData = Field(description="the picture to enlarge")
    noise_level: int = Field(20, ge=0, le=350, description="noise to add to it: more invents more")
    width: None = Field(None, description="always none: the image's own, four times")
    height: None = Field(None, description="always none: the image's own, four times")


TASKS = ("txt2img", "img2img", "inpaint", "outpaint", "upscale")
GenerationRequest = TextToImage | ImageToImage | Inpaint | Outpaint | Upscale
TaskUnion = Annotated[GenerationRequest, Field(discriminator="task")]


class Hello(Model):
    """Introduces a client that reads the stream properly, and so gets the fast path."""

    type: Literal["hello"] = "hello"
    protocol: int = Field(1, ge=1, description="the newest protocol version the client speaks")
    client: str = Field("", max_length=200, description="name and version, for the log")
    observer: bool = Field(False, description="only looks on: its leaving does not end the server")
    token: str | None = Field(
        None, max_length=1024, repr=False, description="the server's, where it asks for one"
    )
    session: str | None = Field(
        None,
        min_length=16,
        max_length=128,
        repr=False,
        description="a secret to come back with; in the first message only",
    )


class Cancel(Model):
    """Ends one of the client's own requests at the next denoising step."""

    type: Literal["cancel"] = "cancel"
    id: RequestId = Field(description="that of the request to end")


class Received(Model):
    """A last answer has come: the server need not keep it. Only with a `session`; no answer."""

    type: Literal["received"] = "received"
    id: RequestId = Field(description="that of the request it was for")


class Convert(Model):
    """Makes a model in another form, beside the one there is; only where the server allows it.

    Answered by `converted` or `failed`, once. Drawing goes on meanwhile; one at a time.
    """

    type: Literal["convert"] = "convert"
    id: RequestId
    model: str = Field(min_length=1, max_length=1000, description="a name as in `models`")
    form: Literal["safetensors", "ckpt", "diffusers"] = Field(description="what to make of it")


class ListModels(Model):
    """Asks for the catalogue."""

    type: Literal["models"] = "models"


class GetStatus(Model):
    """Asks what the server is doing."""

    type: Literal["status"] = "status"


Command = Hello | Cancel | Received | Convert | ListModels | GetStatus | GenerationRequest
