"""How a sample starts: from a canvas and a seed to first latents.

A *sample* is one picture being made: its latents, scheduler and generator, what the UNet reads
beside the latents and is told besides the text, and what is blended in after each step.

The random numbers are drawn in the order in which diffusers' pipelines draw them (noise for a
picture to enlarge, encode the picture, noise, encode the masked picture, then the sampler's
own), from one generator per picture on the CPU, so that a seed gives the same picture there
and here, on any device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor

from runai.engine.archs import Defaults
from runai.engine.backends import Networks, torch_networks
from runai.engine.canvas import Canvas
from runai.engine.geometry import Extent
from runai.engine.guidance import NONE, Guidance, Scales, embedding, kind_for
from runai.engine.loras import LoraSet
from runai.engine.model import LoadedModel
from runai.engine.prompts import Conditioning
from runai.engine.reuse import is_possible
from runai.engine.samplers import make_scheduler, set_timesteps, step_arguments, steps_drawn
from runai.schema.requests import GenerationRequest

# what SDXL's refiner is told it draws, and what it is told to stay away from (of 10)
AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5
Kind = tuple[tuple[int, ...], int, int, str]
"""What a UNet call takes beside its rows depends on: the latents' shape, the tokens, the number of
LoRAs, what computes it."""


@dataclass(frozen=True)
class Blend:
    """What a 4-channel model needs after each step to keep what the mask keeps."""

    latents: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class Told:
    """What the UNet is told of a sample besides its text; None what this UNet does not read.

    `sizes`: 1 × 5 or 6, for the positive text, and for the negative one. `noise_level`: 1, how
    noisy the picture to enlarge is. `guidance`: 1 × width, see `guidance.embedding`.
    """

    sizes: torch.Tensor | None = None
    negative_sizes: torch.Tensor | None = None
    noise_level: torch.Tensor | None = None
    guidance: torch.Tensor | None = None


@dataclass(eq=False)
class Sample:
    """One picture being made. `latents` are 1 × 4 × h × w, fp32 whatever the weights are.

    `networks`: who computes the model's. `guided`: between which parts of its steps it is guided.
    `reuse`: every how many steps the UNet is computed whole; `kept`: what the steps between reuse.
    `token_merging`: see `merging`.
    `estimate`: what the finished latents will be as far as can be told now, for previews. `owner`:
    whose it is, as a number. `times`: the timesteps as numbers, which need not be read off the
    device any more.
    """

    model: LoadedModel
    networks: Networks
    conditioning: Conditioning
    whole_guidance: Guidance
    scales: Scales
    told: Told
    scheduler: Any
    timesteps: torch.Tensor
    latents: torch.Tensor
    arguments: dict[str, Any]
    loras: LoraSet = ()
    beside: torch.Tensor | None = None
    blend: Blend | None = None
    guided: tuple[float, float] = (0.0, 1.0)
    reuse: int = 1
    token_merging: float = 0.0
    kept: torch.Tensor | None = field(default=None, repr=False)
    position: int = 0
    owner: int = 0
    last_turn: int = 0
    wants_estimate: bool = False
    estimate: torch.Tensor | None = field(default=None, repr=False)
    times: list[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.times = self.timesteps.tolist()

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
    def guidance(self) -> Guidance:
        """How this step is guided."""
        begin, end = self.guided
        part = self.step / -(-len(self.timesteps) // self.scheduler.order)
        return self.whole_guidance if begin <= part < end else NONE

    @property
    def is_shallow(self) -> bool:
        """Whether this step needs no whole UNet: see `reuse`. It does where guidance has just
        begun or ended.
        """
        if self.kept is None or self.position % self.reuse == 0:
            return False
        return self.kept.shape[0] == self.rows

    @property
    def rows(self) -> int:
        """How many rows of a UNet call it takes."""
        return len(self.guidance.rows)

    @property
    def computed_by(self) -> str:
        """The backend of this step's call, and what is left out of it."""
        shallow = ", shallow" if self.is_shallow else ""
        merged = f", {self.token_merging:g} merged" if self.token_merging else ""
        return f"{self.networks.denoiser.backend}{shallow}{merged}"

    @property
    def kind(self) -> Kind:
        loras = len(self.loras)
        return tuple(self.latents.shape), self.conditioning.tokens, loras, self.computed_by


def start(
    model: LoadedModel,
    request: GenerationRequest,
    choices: Defaults,
    canvas: Canvas,
    conditioning: Conditioning,
    seed: int,
    loras: LoraSet = (),
) -> Sample:
    """The sample of one picture at its first step. `loras`: the set it is drawn with."""
    generator = torch.Generator("cpu").manual_seed(seed)
    steps = choices.num_inference_steps
    scheduler = make_scheduler(choices.sampler, model.scheduler, seed)
    set_timesteps(scheduler, choices, model.device)
    timesteps = scheduler.timesteps
    if canvas.picture is not None:
        timesteps = _shorten(scheduler, steps, steps_drawn(request, model.arch, choices))
    sample = Sample(
        model=model,
        networks=torch_networks(model),
        conditioning=conditioning,
        whole_guidance=kind_for(model, conditioning.guided),
        guided=(request.guidance_start, request.guidance_end),
        reuse=request.reuse if is_possible(model.unet) else 1,
        token_merging=request.token_merging,
        scales=Scales(choices.guidance_scale, request.image_guidance_scale),
        told=_told(model, request, choices, canvas.extent),
        scheduler=scheduler,
        timesteps=timesteps,
        latents=torch.empty(0),
        arguments=step_arguments(scheduler, eta=request.eta, generator=generator),
        loras=loras,
        wants_estimate=request.preview,
    )
    _first_latents(sample, canvas, generator)
    return sample


# --- timesteps ---------------------------------------------------------------------------


def _shorten(scheduler: Any, steps: int, count: int) -> torch.Tensor:
    """The timesteps of the last `count` steps, which a strength leaves."""
    first = (steps - count) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    timesteps: torch.Tensor = scheduler.timesteps[first:]
    return timesteps


# --- what the UNet is told ---------------------------------------------------------------


def _told(
    model: LoadedModel, request: GenerationRequest, choices: Defaults, extent: Extent
) -> Told:
    sizes = _sizes(model, extent)
    level = getattr(request, "noise_level", None)
    width = model.guidance_width
    return Told(
        sizes=None if sizes is None else sizes[0],
        negative_sizes=None if sizes is None else sizes[1],
        noise_level=None if level is None else torch.tensor([level], device=model.device),
        guidance=None
        if width is None
        else embedding(choices.guidance_scale, width).to(model.device),
    )


def _sizes(model: LoadedModel, extent: Extent) -> tuple[torch.Tensor, torch.Tensor] | None:
    """SDXL's size conditioning (Podell et al. 2023, 2.2), for positive and negative text.

    The picture is said never to have been another size, nor to have been cropped.
    """
    original = [extent.height, extent.width, 0, 0]
    if model.arch.added == "sizes":
        both = torch.tensor([[*original, *original[:2]]], dtype=torch.float32, device=model.device)
        return both, both
    if model.arch.added == "aesthetic":
        scores = (AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE)
        positive, negative = (torch.tensor([[*original, s]], device=model.device) for s in scores)
        return positive, negative
    return None


# --- latents -----------------------------------------------------------------------------


def _first_latents(sample: Sample, canvas: Canvas, generator: torch.Generator) -> None:
    model, scheduler = sample.model, sample.scheduler
    small = _noised(sample, canvas.small, generator)
    # a 9-channel UNet reads the picture beside its latents: at full strength these are noise
    pure = canvas.picture is None or (canvas.mask is not None and canvas.strength == 1.0)
    needs_picture = canvas.picture is not None and not (pure and model.inpaints)
    picture = _draw(model, canvas.picture, generator) if needs_picture else None
    height, width = canvas.extent.height // model.scale, canvas.extent.width // model.scale
    noise = _noise(model, (1, 4, height, width), generator)
    if pure or picture is None:
        sample.latents = noise * scheduler.init_noise_sigma
    else:
        sample.latents = scheduler.add_noise(picture, noise, sample.timesteps[:1])
    sample.beside = canvas.beside if small is None else small
    if model.inpaints:
        sample.beside = _mask_and_masked(model, canvas, noise, generator)
    elif canvas.mask is not None and picture is not None:
        _noise(model, noise.shape, generator)  # drawn there to encode what is not used here
        sample.blend = Blend(picture, noise, canvas.mask)


def _noised(
    sample: Sample, small: torch.Tensor | None, generator: torch.Generator
) -> torch.Tensor | None:
    """The picture to enlarge, as noisy as was asked for (Ho et al. 2021, 4.2)."""
    if small is None or sample.told.noise_level is None:
        return None
    schedule = DDPMScheduler.from_config(sample.model.arch.noising)
    noise = _noise(sample.model, small.shape, generator)
    noised: torch.Tensor = schedule.add_noise(small, noise, sample.told.noise_level)
    return noised


def _mask_and_masked(
    model: LoadedModel, canvas: Canvas, like: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """The 5 channels an inpainting UNet reads beside the latents: mask, masked picture.

    For a task without a mask everything is to be repainted and nothing is kept.
    """
    if canvas.mask is None:
        return torch.cat([torch.ones_like(like[:, :1]), torch.zeros_like(like)], dim=1)
    kept = _draw(model, canvas.masked, generator)
    return torch.cat([canvas.mask, kept], dim=1)


def _draw(model: LoadedModel, posterior: Any, generator: torch.Generator) -> torch.Tensor:
    """Scaled latents drawn from a posterior, fp32."""
    return model.scaled(posterior.sample(generator)).float()


def _noise(model: LoadedModel, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    noise: torch.Tensor = randn_tensor(
        tuple(shape), generator=generator, device=model.device, dtype=torch.float32
    )
    return noise
