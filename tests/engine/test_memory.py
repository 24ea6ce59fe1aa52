"""Memory from the request's side: the plan it is told, and what happens when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import draw, held, last, make_request, run

from runai.engine.engine import TorchEngine
from runai.errors import OutOfMemory
from runai.schema.events import Failed
from runai.schema.requests import MemoryPlan

WIDE = {"width": 1536, "num_inference_steps": 1}


@pytest.fixture
def engine(models: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(models, device="cpu", dtype="fp32")
    draw(engine, model="v2/velocity")
    draw(engine)
    yield engine
    engine.close()


class Short:
    """A real network that runs out of memory the first `times` that it is given so much."""

    def __init__(self, network: Any, times: int, least_width: int = 0) -> None:
        self.left = times

        def check(_: Any, args: tuple[torch.Tensor, ...]) -> None:
            if self.left and args[0].shape[-1] >= least_width:
                self.left -= 1
                raise torch.OutOfMemoryError

        network.register_forward_pre_hook(check)


def test_an_answer_says_how_it_was_fitted_into_memory(engine: TorchEngine) -> None:
    memory = last(run(engine, {"k": make_request()})["k"]).memory
    assert memory is not None and memory.plan == "full"
    assert memory.reason.endswith("GB free: everything stays on the device")
    assert memory.needed_bytes < memory.free_bytes
    assert engine.newest_memory() == memory


@pytest.mark.parametrize(("asked", "plan"), [("tiling", "tiling"), ("offload", "tiling")])
def test_a_request_may_ask_for_its_plan(engine: TorchEngine, asked: MemoryPlan, plan: str) -> None:
    memory = last(run(engine, {"k": make_request(memory_plan=asked)})["k"]).memory
    assert memory is not None and memory.plan == plan


def test_a_call_without_memory_is_made_again_without_unused_models(engine: TorchEngine) -> None:
    short = Short(held(engine).unet, times=1)
    done = last(run(engine, {"k": make_request()})["k"])
    assert done.memory is not None
    assert done.memory.reason == "full ran out of memory: everything stays on the device"
    assert engine.loaded_models() == ["v1/plain"]
    assert short.left == 0


def test_a_picture_that_cannot_be_decoded_whole_is_decoded_in_tiles(engine: TorchEngine) -> None:
    Short(held(engine).vae.decoder, times=9, least_width=65)
    done = last(run(engine, {"k": make_request(**WIDE)})["k"])
    assert done.memory is not None and done.memory.plan == "tiling"
    assert done.memory.reason == "full ran out of memory: tiling on"
    assert engine.newest_memory() == done.memory


def test_a_picture_that_cannot_be_encoded_whole_is_encoded_in_tiles(engine: TorchEngine) -> None:
    Short(held(engine).vae.encoder, times=9, least_width=513)
    request = make_request(task="img2img", **{**WIDE, "num_inference_steps": 4})
    done = last(run(engine, {"k": request})["k"])
    assert done.memory is not None and done.memory.plan == "tiling"


@pytest.mark.parametrize("part", ["unet", "decoder"])
def test_the_second_time_memory_runs_out_the_error_says_what_would_fit(
    engine: TorchEngine, part: str
) -> None:
    network = {"unet": held(engine).unet, "decoder": held(engine).vae.decoder}[part]
    short = Short(network, times=2)
    failed = run(engine, {"k": make_request(**WIDE)})["k"][-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "out_of_memory"
    assert failed.error.hint == "192×192 would fit: ask for a smaller picture."
    assert short.left == 0
    assert draw(engine).std() > 5


def test_the_second_time_memory_runs_out_while_starting_is_the_requests_failure(
    engine: TorchEngine,
) -> None:
    Short(held(engine).vae.encoder, times=2)
    with pytest.raises(OutOfMemory) as caught:
        engine.admit("k", make_request(task="img2img", width=256, height=256))
    assert caught.value.hint == "128×128 would fit: ask for a smaller picture."
    assert not engine.is_busy()


def test_what_does_not_fit_is_refused_before_anything_is_loaded(models: Path) -> None:
    engine = TorchEngine(models, device="cpu", dtype="fp32", max_memory=110_000_000)
    with pytest.raises(OutOfMemory) as caught:
        engine.admit("k", make_request(width=1024, height=1024))
    assert "would fit: ask for a smaller picture." in caught.value.hint
    assert engine.loaded_models() == []
    side = int(caught.value.hint.partition("×")[0])
    assert draw(engine, width=side, height=side, num_inference_steps=1).std() > 5
    engine.close()


def test_an_engine_rests_only_where_it_is_set_to(models: Path, engine: TorchEngine) -> None:
    assert engine.rest() is None
    resting = TorchEngine(models, device="cpu", dtype="fp32", idle_unload_s=600.0)
    draw(resting)
    wait = resting.rest()
    assert wait is not None and 0 < wait <= 600
    assert resting.loaded_models() == ["v1/plain"]
    resting.close()
