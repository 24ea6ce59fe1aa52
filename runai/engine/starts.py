"""How a sample starts: the only place where the tasks differ.

A *canvas* is what a request's pictures have in common: its size, and the given picture and
mask as the VAE sees them. From it and a seed comes a *sample*: first latents, scheduler,
and what is blended in after each step.

The random numbers are drawn in the order in which diffusers' pipelines draw them (encode
the picture, noise, encode the masked picture, then the sampler's own), from one generator
per picture on the CPU, so that a seed gives the same picture there and here, on any device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from runai.engine import images
from runai.engine.archs import Defaults
from runai.engine.geometry import Extent, chosen
from runai.engine.model import LoadedModel
from runai.engine.prompts import Conditioning
from runai.engine.samplers import make_scheduler, step_arguments
from runai.errors import InvalidField, ModelUnsupported
from runai.schema.limits import Limits
from runai.schema.requests import (
    GenerationRequest,
    ImageToImage,
    Inpaint,
    Outpaint,
    TextToImage,
    Upscale,
)


@dataclass(frozen=True)
class Canvas:
    """What the pictures of one request have in common.

    `picture`, `masked`: the VAE's posterior of the given picture, and of what the mask keeps
    of it. `mask`: 1 × 1 × h × w in latents, 1 = repaint. None where the task has none.
    """

    extent: Extent
    strength: float = 1.0
    picture: Any = None
    masked: Any = None
    mask: torch.Tensor | None = None


@dataclass(frozen=True)
class Blend:
    """What a 4-channel model needs after each step to keep what the mask keeps."""

    latents: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor


@dataclass(eq=False)
class Sample:
    """One picture being made. `latents` are 1 × 4 × h × w, fp32 whatever the weights are.

    `estimate`: what the finished latents will be as far as can be told now, for previews.
    """

    model: LoadedModel
    conditioning: Conditioning
    guidance_scale: float
    scheduler: Any
    timesteps: torch.Tensor
    latents: torch.Tensor
    arguments: dict[str, Any]
    beside: torch.Tensor | None = None
    blend: Blend | None = None
    position: int = 0
    last_turn: int = 0
    wants_estimate: bool = False
    estimate: torch.Tensor | None = field(default=None, repr=False)

    @property
    def done(self) -> bool:
        return self.position >= len(self.timesteps)

    @property
    def timestep(self) -> torch.Tensor:
        return self.timesteps[self.position]

    @property
    def step(self) -> int:
        """Steps done as the user counts them; some samplers take two timesteps for one."""
        return int(self.position // self.scheduler.order)

    @property
    def rows(self) -> int:
        """How many rows of a UNet call it takes."""
        return 2 if self.conditioning.guided else 1


# --- canvas ------------------------------------------------------------------------------


def prepare(model: LoadedModel, request: GenerationRequest, limits: Limits) -> Canvas:
    """The canvas of a request: reads and encodes its pictures. Raises a RequestError."""
    if isinstance(request, TextToImage):
        native = Extent(model.size, model.size)
        return Canvas(_extent(request, native, limits))
    given = images.read(request.image, "image", limits)
    extent = _extent(request, Extent(*given.size).floor(), limits)
    if isinstance(request, ImageToImage):
        pixels = _pixels(model.images, images.opaque(given), extent)
        return Canvas(extent, request.strength, _posterior(model, pixels))
    if isinstance(request, Upscale):
        raise ModelUnsupported(f"{model.name} is no upscaling model.", field="model")
    mask = _mask_picture(request, given, limits)
    return _masked_canvas(model, extent, request.strength, given, mask)


def _extent(request: GenerationRequest, fallback: Extent, limits: Limits) -> Extent:
    """The size to draw; TooManyPixels before anything of that size is made."""
    extent = chosen(request.width, request.height, fallback)
    limits.check_size(*extent.size, field="width")
    return extent


def _mask_picture(
    request: Inpaint | Outpaint, given: images.Picture, limits: Limits
) -> images.Picture:
    if request.mask_image is None:
        return images.mask_of_empty(given)
    return images.mask_from(images.read(request.mask_image, "mask_image", limits))


def _masked_canvas(
    model: LoadedModel,
    extent: Extent,
    strength: float,
    given: images.Picture,
    mask: images.Picture,
) -> Canvas:
    pixels = _pixels(model.images, images.opaque(given), extent)
    holes = _pixels(model.masks, mask, extent)
    small = torch.nn.functional.interpolate(
        holes, size=(extent.height // model.scale, extent.width // model.scale)
    )
    return Canvas(
        extent,
        strength,
        picture=_posterior(model, pixels),
        # only a 9-channel UNet reads it; for others its place in the random order is kept
        masked=_posterior(model, pixels * (holes < 0.5)) if model.inpaints else None,
        mask=small.to(model.device),
    )


def _pixels(processor: Any, picture: images.Picture, extent: Extent) -> torch.Tensor:
    pixels: torch.Tensor = processor.preprocess(picture, height=extent.height, width=extent.width)
    return pixels.float()


def _posterior(model: LoadedModel, pixels: torch.Tensor) -> Any:
    return model.vae.encode(pixels.to(model.device, model.dtype)).latent_dist


def _draw(model: LoadedModel, posterior: Any, generator: torch.Generator) -> torch.Tensor:
    """Scaled latents drawn from a posterior, fp32."""
    latents: torch.Tensor = posterior.sample(generator) * model.vae.config.scaling_factor
    return latents.float()


# --- samples -----------------------------------------------------------------------------


def start(
    model: LoadedModel,
    request: GenerationRequest,
    choices: Defaults,
    canvas: Canvas,
    conditioning: Conditioning,
    seed: int,
) -> Sample:
    """The sample of one picture at its first step."""
    generator = torch.Generator("cpu").manual_seed(seed)
    steps = choices.num_inference_steps
    scheduler = make_scheduler(choices.sampler, model.scheduler)
    scheduler.set_timesteps(steps, device=model.device)
    _check_steps(scheduler, steps)
    timesteps = scheduler.timesteps
    if canvas.picture is not None:
        timesteps = _shorten(scheduler, steps, canvas.strength)
    sample = Sample(
        model=model,
        conditioning=conditioning,
        guidance_scale=choices.guidance_scale,
        scheduler=scheduler,
        timesteps=timesteps,
        latents=torch.empty(0),
        arguments=step_arguments(scheduler, eta=request.eta, generator=generator),
        wants_estimate=request.preview,
    )
    _first_latents(sample, canvas, generator)
    return sample


def _check_steps(scheduler: Any, steps: int) -> None:
    """Refuse so many steps that a sampler would start after the model's last timestep."""
    known = scheduler.config.num_train_timesteps
    if scheduler.timesteps.max() > known - 1:
        raise InvalidField(
            f"This sampler cannot do {steps} steps with a model of {known} timesteps.",
            hint="Ask for fewer steps, or use another sampler.",
            field="num_inference_steps",
        )


def _shorten(scheduler: Any, steps: int, strength: float) -> torch.Tensor:
    """The timesteps that a strength leaves: the last `strength × steps` of them."""
    count = min(int(steps * strength), steps)
    if count < 1:
        raise InvalidField(
            f"A strength of {strength} leaves none of {steps} steps to do.",
            hint="Use a higher strength, or more steps.",
            field="strength",
        )
    first = (steps - count) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    timesteps: torch.Tensor = scheduler.timesteps[first:]
    return timesteps


def _first_latents(sample: Sample, canvas: Canvas, generator: torch.Generator) -> None:
    model, scheduler = sample.model, sample.scheduler
    # a 9-channel UNet reads the picture beside its latents: at full strength these are noise
    pure = canvas.picture is None or (canvas.mask is not None and canvas.strength == 1.0)
    needs_picture = canvas.picture is not None and not (pure and model.inpaints)
    picture = _draw(model, canvas.picture, generator) if needs_picture else None
    noise = randn_tensor(
        (1, 4, canvas.extent.height // model.scale, canvas.extent.width // model.scale),
        generator=generator,
        device=model.device,
        dtype=torch.float32,
    )
    if pure or picture is None:
        sample.latents = noise * scheduler.init_noise_sigma
    else:
        sample.latents = scheduler.add_noise(picture, noise, sample.timesteps[:1])
    if model.inpaints:
        sample.beside = _beside(model, canvas, noise, generator)
    elif canvas.mask is not None and picture is not None:
        _skip_random_numbers(noise, generator)
        sample.blend = Blend(picture, noise, canvas.mask)


def _beside(
    model: LoadedModel, canvas: Canvas, like: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """The 5 channels an inpainting UNet reads beside the latents: mask, masked picture.

    For a task without a mask everything is to be repainted and nothing is kept.
    """
    if canvas.mask is None:
        return torch.cat([torch.ones_like(like[:, :1]), torch.zeros_like(like)], dim=1)
    kept = _draw(model, canvas.masked, generator)
    return torch.cat([canvas.mask, kept], dim=1)


def _skip_random_numbers(like: torch.Tensor, generator: torch.Generator) -> None:
    """Draw what diffusers draws here for encoding the masked picture, which is not used."""
    randn_tensor(tuple(like.shape), generator=generator, device=like.device, dtype=like.dtype)
