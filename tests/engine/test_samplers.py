"""Every sampler is what its name says: diffusers' picture, its seed's picture, its schedule."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from drawn import Pixels, draw, last, make_request, pixels, run
from hidden import said_without

from runai.engine.archs import ARCHS, Defaults
from runai.engine.engine import TorchEngine
from runai.engine.samplers import (
    SCHEDULERS,
    make_scheduler,
    scheduler_class,
    set_timesteps,
    step_arguments,
)
from runai.errors import InvalidField
from runai.schema.events import Preview
from runai.schema.samplers import METHODS, PARTS

CONFIG = ARCHS["sd1"].scheduler
FIELDS = {"prompt": "a b c", "negative_prompt": "d", "num_inference_steps": 5}
Reference = Callable[[str], Pixels]


@pytest.fixture(scope="module")
def reference(models: Path) -> Reference:
    """The picture that diffusers' pipeline draws with a sampler."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        models / "v1" / "plain", local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    config = dict(pipe.scheduler.config)

    def drawn(sampler: str) -> Pixels:
        choice = SCHEDULERS[sampler]
        own = {"noise_sampler_seed": 7} if choice.draws_apart else {}
        pipe.scheduler = scheduler_class(sampler).from_config(config, **choice.arguments, **own)
        generator = torch.Generator("cpu").manual_seed(7)
        return np.asarray(pipe(**FIELDS, generator=generator).images[0]).astype(int)

    return drawn


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_a_sampler_draws_the_picture_that_diffusers_draws(
    engine: TorchEngine, reference: Reference, sampler: str
) -> None:
    ours, theirs = draw(engine, sampler=sampler, **FIELDS), reference(sampler)
    assert theirs.std() > 15, "a flat picture would hide differences"
    assert abs(ours - theirs).max() <= 1


# --- seeds -------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", METHODS)
def test_a_seed_is_a_picture(engine: TorchEngine, sampler: str) -> None:
    request = make_request(sampler=sampler, num_images=2, **FIELDS)
    first, again = (last(run(engine, {"k": request})["k"]) for _ in range(2))
    assert [p.png for p in first.images] == [p.png for p in again.images]
    assert abs(pixels(first, 0) - pixels(first, 1)).mean() > 5
    alone = draw(engine, sampler=sampler, seed=8, **FIELDS)
    assert abs(pixels(first, 1) - alone).max() <= 1


@pytest.mark.parametrize("sampler", METHODS)
def test_previews_are_made_with_every_sampler_and_change_nothing(
    engine: TorchEngine, sampler: str
) -> None:
    request = make_request(sampler=sampler, preview=True, **FIELDS)
    events = run(engine, {"k": request})["k"]
    assert any(isinstance(event, Preview) for event in events)
    assert (pixels(last(events)) == draw(engine, sampler=sampler, **FIELDS)).all()


# --- a world whose every noisy picture can be told: pixels are Gaussian (mean MEAN, VAR) ---

MEAN = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
VAR = 0.6


def denoised(noisy: torch.Tensor, level: float) -> torch.Tensor:
    """The expected picture behind picture + level · noise."""
    return (noisy * VAR + level**2 * MEAN) / (VAR + level**2)


def walk(sampler: str, steps: int) -> Iterator[tuple[Any, torch.Tensor]]:
    """The scheduler and the latents, at the start and after each timestep."""
    scheduler = make_scheduler(sampler, dict(CONFIG), 7)
    set_timesteps(scheduler, Defaults(steps, sampler=sampler), "cpu")
    logs = np.log(((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).numpy()) / 2
    generator = torch.Generator().manual_seed(7)
    latents = torch.randn(1, 4, 8, 8, generator=generator) * scheduler.init_noise_sigma
    arguments = step_arguments(scheduler, eta=0.0, generator=generator)
    yield scheduler, latents
    for time in scheduler.timesteps:
        level = float(np.exp(np.interp(float(time), np.arange(len(logs)), logs)))
        noisy = scheduler.scale_model_input(latents, time) * (level**2 + 1) ** 0.5
        noise = (noisy - denoised(noisy, level)) / level
        latents = scheduler.step(noise, time, latents, **arguments, return_dict=False)[0]
        yield scheduler, latents


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_every_sampler_does_any_number_of_steps(sampler: str, steps: int) -> None:
    *_, (_, latents) = walk(sampler, steps)
    assert torch.isfinite(latents).all()


@pytest.mark.parametrize("sampler", [name for name in METHODS if name not in ("lcm", "tcd")])
def test_many_steps_draw_from_the_world_as_it_is(sampler: str) -> None:
    """Consistency samplers are left out: this world's network is no distilled one."""
    *_, (_, latents) = walk(sampler, 50)
    assert (latents - MEAN).mean().abs() < 0.15
    assert abs(float((latents - MEAN).var()) - VAR) < 0.15


def ancestral_2s(steps: int) -> torch.Tensor:
    """DPM-Solver++(2S) (Lu et al. 2022, algorithm 1) with ancestral noise, step by step."""
    scheduler, latents = next(walk("dpmpp_2s_a", steps))
    levels = torch.unique_consecutive(scheduler.sigmas).tolist()
    generator = torch.Generator().manual_seed(7)
    torch.randn(1, 4, 8, 8, generator=generator)  # the first latents
    for level, after in pairwise(levels):
        if after == 0:
            return denoised(latents, level)
        fresh = after * (1 - (after / level) ** 2) ** 0.5
        down = (after**2 - fresh**2) ** 0.5
        middle = (level * down) ** 0.5
        picture = denoised(latents, level)
        halfway = middle / level * latents + (1 - middle / level) * picture
        picture = denoised(halfway, middle)
        latents = down / level * latents + (1 - down / level) * picture
        latents = latents + fresh * torch.randn(1, 4, 8, 8, generator=generator)
    raise AssertionError("the levels do not end at zero")


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_our_own_ancestral_sampler_follows_its_paper(steps: int) -> None:
    *_, (_, latents) = walk("dpmpp_2s_a", steps)
    assert (latents - ancestral_2s(steps)).abs().max() < 1e-3
    if steps > 1:
        *_, (_, other) = walk("dpm2_a", steps)
        assert (latents - other).abs().max() > 3e-2


# --- schedules ---------------------------------------------------------------------------


def levels_of(sampler: str, steps: int, config: dict[str, Any] = CONFIG) -> Any:
    """The noise levels of the steps, each once, without the zero at their end."""
    scheduler = make_scheduler(sampler, dict(config), 7)
    set_timesteps(scheduler, Defaults(steps, sampler=sampler), "cpu")
    levels = torch.unique_consecutive(scheduler.sigmas)
    return levels[levels > 0].double().numpy()


def is_even(values: Any) -> bool:
    gaps = np.diff(values)
    return bool(np.allclose(gaps, gaps[0], rtol=1e-3, atol=1e-3))


def named(schedule: str) -> list[str]:
    """The samplers of a schedule whose classes tell their noise levels."""
    skipped = ("ddim", "ddpm", "pndm")
    return [
        name for name, parts in PARTS.items() if parts[1] == schedule and parts[0] not in skipped
    ]


@pytest.mark.parametrize("sampler", named("karras"))
def test_karras_levels_are_even_in_their_seventh_root(sampler: str) -> None:
    """Karras et al. 2022, eq. 5, with rho = 7."""
    levels = levels_of(sampler, 8)
    assert is_even(levels ** (1 / 7))
    assert not is_even(np.log(levels))


@pytest.mark.parametrize("sampler", named("exponential"))
def test_exponential_levels_are_even_in_their_logarithm(sampler: str) -> None:
    assert is_even(np.log(levels_of(sampler, 8)))


@pytest.mark.parametrize("sampler", named("beta"))
def test_beta_levels_are_quantiles_of_the_beta_distribution(sampler: str) -> None:
    """Lee et al. 2024, with alpha = beta = 0.6."""
    from scipy import stats

    levels = levels_of(sampler, 8)
    share = (levels - levels.min()) / (levels.max() - levels.min())
    assert np.allclose(stats.beta.cdf(share, 0.6, 0.6), np.linspace(1, 0, 8), atol=1e-3)


@pytest.mark.parametrize("sampler", [n for n, parts in PARTS.items() if parts[1] == "sgm_uniform"])
def test_trailing_timesteps_start_at_the_last_and_are_even(sampler: str) -> None:
    """Lin et al. 2023, table 2. (PNDM does its second step twice; Heun and its kind halve.)"""
    scheduler = make_scheduler(sampler, dict(CONFIG), 7)
    set_timesteps(scheduler, Defaults(8, sampler=sampler), "cpu")
    said = set(scheduler.timesteps.tolist())
    assert max(said) == 999
    assert {999 - 125 * i for i in range(8)} <= said


# --- a model's configuration, and what cannot be done ------------------------------------

LEFT_BY_ANOTHER = {
    "use_karras_sigmas": True,
    "algorithm_type": "sde-dpmsolver++",
    "solver_order": 3,
    "solver_type": "heun",
    "lower_order_final": False,
}


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_a_sampler_is_itself_whatever_sampler_a_model_was_saved_with(sampler: str) -> None:
    clean = make_scheduler(sampler, dict(CONFIG), 7)
    other = make_scheduler(sampler, {**CONFIG, **LEFT_BY_ANOTHER}, 7)
    known = inspect.signature(type(clean).__init__).parameters
    for name in known.keys() & LEFT_BY_ANOTHER.keys():
        assert other.config[name] == clean.config[name]


@pytest.mark.parametrize("sampler", ["lcm", "tcd"])
def test_a_few_step_sampler_refuses_more_steps_than_its_schedule_has(
    engine: TorchEngine, sampler: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        engine.admit("k", make_request(sampler=sampler, num_inference_steps=51))
    assert caught.value.field == "num_inference_steps"
    assert "50" in caught.value.message
    assert draw(engine, sampler=sampler, num_inference_steps=50).std() > 5


HIDDEN = """
from runai.engine.archs import ARCHS
from runai.engine.samplers import make_scheduler
from runai.errors import DependencyMissing
config = ARCHS["sd1"].scheduler
make_scheduler("dpmpp_2m_karras", config, 0)
for sampler in {samplers!r}:
    try:
        make_scheduler(sampler, config, 0)
    except DependencyMissing as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("package", "samplers"),
    [("torchsde", ["dpmpp_sde", "dpmpp_sde_karras"]), ("scipy", ["lms", "euler_beta"])],
)
def test_a_sampler_that_needs_a_missing_package_says_which(
    package: str, samplers: list[str]
) -> None:
    said = said_without(package, HIDDEN.format(samplers=samplers))
    assert len(said) == len(samplers)
    for line, sampler in zip(said, samplers, strict=True):
        assert sampler in line and f"pip install {package}" in line


def test_making_a_sampler_changes_nothing_of_how_warnings_are_shown() -> None:
    pytest.importorskip("torchsde")
    before = list(warnings.filters)
    for _ in range(2):
        make_scheduler("dpmpp_sde_karras", ARCHS["sd1"].scheduler, 1)
    assert warnings.filters == before


ROUNDED = """
import torch
from runai.engine.archs import ARCHS
from runai.engine.samplers import make_scheduler
for seed in range(4):
    scheduler = make_scheduler("dpmpp_sde", ARCHS["sd1"].scheduler, seed)
    scheduler.set_timesteps(7)
    latents = torch.ones(1, 4, 8, 8)
    for timestep in scheduler.timesteps:
        latents = scheduler.step(latents * 0.1, timestep, latents).prev_sample
"""


def test_what_a_sampler_rounds_is_not_warned_of() -> None:
    pytest.importorskip("torchsde")
    ran = subprocess.run(
        [sys.executable, "-W", "always", "-c", ROUNDED],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert "Should have t" not in ran.stderr
