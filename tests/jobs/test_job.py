"""A job's life is the table, whole and nothing else."""

from __future__ import annotations

import itertools

import pytest

from runai.errors import RunAIError
from runai.jobs.job import ENDS, TRANSITIONS, Job, State
from runai.schema.events import Canceled, Completed, ErrorBody, Event, Failed, Parameters
from runai.schema.requests import TextToImage

PARAMETERS = Parameters(
    task="txt2img",
    model="m",
    prompt="",
    negative_prompt="",
    num_inference_steps=1,
    guidance_scale=1.0,
    sampler="euler",
    eta=0.0,
    seed=0,
    num_images=1,
    width=64,
    height=64,
)
LAST: dict[State, Event] = {
    State.SUCCEEDED: Completed(id="a", images=[], parameters=PARAMETERS),
    State.FAILED: Failed(id="a", error=ErrorBody.of(RunAIError("broken"))),
    State.CANCELED: Canceled(id="a"),
}
ALLOWED = {
    (State.QUEUED, State.RUNNING),
    (State.QUEUED, State.FAILED),
    (State.QUEUED, State.CANCELED),
    (State.RUNNING, State.SUCCEEDED),
    (State.RUNNING, State.FAILED),
    (State.RUNNING, State.CANCELED),
}


def job_in(state: State) -> Job:
    job = Job("1", 1, TextToImage(id="a"))
    if state is not State.QUEUED:
        job.start()
    if state in LAST:
        job.end(LAST[state])
    return job


def move(job: Job, state: State) -> None:
    if state is State.RUNNING:
        job.start()
    else:
        job.end(LAST[state])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pair
        for pair in itertools.product(State, State)
        if pair[1] is not State.QUEUED  # no way of asking for it exists
    ],
    ids=lambda state: state.value,
)
def test_a_job_moves_along_the_table_and_nowhere_else(before: State, after: State) -> None:
    job = job_in(before)
    if (before, after) in ALLOWED:
        move(job, after)
        assert job.state is after
    else:
        with pytest.raises(RunAIError, match=f"from {before.value} to {after.value}"):
            move(job, after)
        assert job.state is before


def test_a_job_is_over_in_exactly_the_states_that_have_no_way_out() -> None:
    assert {state for state in State if job_in(state).is_over} == set(LAST)
    assert set(ENDS.values()) == set(LAST)
    assert set(TRANSITIONS) == set(State)
