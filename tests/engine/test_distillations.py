"""What a few-step model is drawn with when a request leaves it open, and when a note is due."""

from __future__ import annotations

import pytest
from drawn import make_request

from runai.engine.archs import ARCHS, Defaults
from runai.engine.distillations import DISTILLATIONS
from runai.engine.samplers import make_scheduler, set_timesteps
from runai.schema.samplers import SAMPLERS


@pytest.mark.parametrize("kind", DISTILLATIONS)
def test_a_few_step_model_is_drawn_in_few_steps_with_little_guidance(kind: str) -> None:
    distillation = DISTILLATIONS[kind]
    defaults = distillation.defaults
    assert 1 <= defaults.num_inference_steps <= distillation.most_steps <= 8
    assert defaults.guidance_scale <= 1
    assert defaults.sampler in SAMPLERS
    assert distillation.surprises(defaults, told=False) == []


@pytest.mark.parametrize("kind", ["turbo", "lightning", "hyper"])
def test_its_steps_begin_at_the_last_timestep(kind: str) -> None:
    distillation = DISTILLATIONS[kind]
    defaults = distillation.defaults
    config = {**ARCHS["sdxl"].scheduler, **distillation.scheduler}
    scheduler = make_scheduler(defaults.sampler, config, 0)
    set_timesteps(scheduler, defaults, "cpu")
    assert scheduler.timesteps[0] == 999
    assert len(scheduler.timesteps) == defaults.num_inference_steps


def test_a_request_overrides_each_of_them() -> None:
    request = make_request(num_inference_steps=2, guidance_scale=1.5, sampler="tcd")
    said = DISTILLATIONS["turbo"].defaults.overridden_by(request)
    assert said == Defaults(2, 1.5, "tcd")
    silent = make_request(num_inference_steps=None)
    assert DISTILLATIONS["turbo"].defaults.overridden_by(silent) == DISTILLATIONS["turbo"].defaults


def test_a_model_that_is_told_its_guidance_has_its_own_scale_of_it() -> None:
    lcm = DISTILLATIONS["lcm"]
    assert lcm.defaults_for(told=True).guidance_scale == 8.0
    assert lcm.defaults_for(told=False).guidance_scale == 1.0
    assert lcm.surprises(Defaults(4, 8.0, "lcm"), told=True) == []
    assert lcm.surprises(Defaults(4, 8.0, "lcm"), told=False) != []


@pytest.mark.parametrize("choices", [Defaults(20, 0.0), Defaults(4, 7.5), Defaults(50, 7.5)])
def test_what_burns_a_picture_is_done_as_asked_with_a_note(choices: Defaults) -> None:
    [note] = DISTILLATIONS["turbo"].surprises(choices, told=False)
    assert f"{choices.num_inference_steps} steps" in note
    assert f"{choices.guidance_scale:g}" in note


def test_what_is_only_a_little_more_needs_no_note() -> None:
    assert DISTILLATIONS["turbo"].surprises(Defaults(8, 2.0), told=False) == []
