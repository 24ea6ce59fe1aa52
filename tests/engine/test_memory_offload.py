"""Where the parts of a model are, by plan: which part is moved when, and back unchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import Separate, draw, held, last, make_request, pixels, run
from peft import LoHaConfig, LoraConfig, inject_adapter_in_model
from torch import nn

from runai.engine.archs import ARCHS
from runai.engine.catalogue import Entry
from runai.engine.devices import Place
from runai.engine.engine import TorchEngine
from runai.engine.model import LoadedModel, TextEncoder
from runai.engine.offload import Arrangement
from runai.schema.requests import MemoryPlan

GPU = torch.device("cuda")


class Part(nn.Module):
    """A network that notes where it is sent to, and goes nowhere."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.device = torch.device("cpu")
        self._name = name
        self._log = log

    def to(self, *args: Any, **kwargs: Any) -> Part:
        self._log.append(f"{self._name} to {args[0]}")
        self.device = args[0]
        return self

    def forward(self, said: str) -> str:
        self._log.append(f"{self._name} is called")
        return said


def model_of(log: list[str], place: torch.device = GPU) -> LoadedModel:
    texts = tuple(TextEncoder(None, Part(f"text{i}", log)) for i in (1, 2))
    arch = ARCHS["sd1"]
    return LoadedModel(
        entry=Entry("m", "v1", "diffusers", Path("m")),
        arch=arch,
        unet=Part("unet", log),
        vae=Part("vae", log),
        texts=texts,
        scheduler={},
        place=Place(place, torch.float32),
        images=None,
        masks=None,
        defaults=arch.defaults,
    )


def call_all(model: LoadedModel, steps: int = 3) -> None:
    for part in (*(t.network for t in model.texts), *[model.unet] * steps, model.vae):
        assert part("hello") == "hello"


@pytest.mark.parametrize("plan", ["full", "tiling"])
def test_a_plan_that_keeps_all_moves_each_part_once(plan: MemoryPlan) -> None:
    log: list[str] = []
    model = model_of(log)
    arranged = Arrangement(model, plan)
    assert log == [f"{name} to cuda" for name in ("text1", "text2", "unet", "vae")]
    log.clear()
    call_all(model)
    arranged.leave()
    arranged.undo()
    assert not any(" to " in line for line in log)


def test_offload_moves_a_part_when_it_is_called_and_the_others_away() -> None:
    log: list[str] = []
    model = model_of(log)
    Arrangement(model, "offload")
    log.clear()
    call_all(model)
    call_all(model, steps=1)
    once = ["text2 to cpu", "unet to cuda", "unet is called"]
    assert log == [
        *("text1 to cuda", "text1 is called"),
        *("text1 to cpu", "text2 to cuda", "text2 is called"),
        *once,
        *("unet is called", "unet is called"),
        *("unet to cpu", "vae to cuda", "vae is called"),
        *("vae to cpu", "text1 to cuda", "text1 is called"),
        *("text1 to cpu", "text2 to cuda", "text2 is called"),
        *once,
        *("unet to cpu", "vae to cuda", "vae is called"),
    ]


def test_a_model_leaves_the_device_to_another_and_comes_back_when_called() -> None:
    log: list[str] = []
    model = model_of(log)
    arranged = Arrangement(model, "offload")
    model.unet("step")
    log.clear()
    arranged.leave()
    assert log == ["unet to cpu"]
    arranged.leave()
    model.unet("step")
    assert log == ["unet to cpu", "unet to cuda", "unet is called"]


def test_undoing_takes_the_hooks_off_and_brings_everything_home() -> None:
    log: list[str] = []
    model = model_of(log)
    Arrangement(model, "offload").undo()
    log.clear()
    call_all(model, steps=1)
    assert [line for line in log if " to " in line] == []
    assert {part.device.type for part in (model.unet, model.vae)} == {"cpu"}


def test_an_arrangement_serves_the_same_parts_and_plan_only() -> None:
    model = model_of([])
    offload, full = Arrangement(model, "offload"), Arrangement(model, "full")
    assert offload.serves(model, "offload")
    assert not offload.serves(model, "sequential")
    assert not offload.serves(replace(model, vae=Part("other", [])), "offload")
    assert not full.serves(model, "offload")


def test_an_arrangement_that_keeps_all_serves_whatever_is_there() -> None:
    """A VAE may be shared with a model that another plan arranges."""
    model = model_of([])
    full = Arrangement(model, "full")
    assert full.serves(model, "tiling")
    assert not full.serves(replace(model, vae=Part("other", [])), "full")
    other = replace(model_of([]), vae=model.vae)
    Arrangement(other, "offload")
    assert not full.serves(model, "full")
    Arrangement(model, "full")
    assert full.serves(model, "full")


# --- real networks, on a processor -------------------------------------------------------


@pytest.fixture
def loaded(models: Path) -> Any:
    engine = TorchEngine(models, device="cpu", dtype="fp32")
    draw(engine)
    yield held(engine)
    engine.close()


@torch.inference_mode()
def call(unet: Any) -> torch.Tensor:
    torch.manual_seed(0)
    width = unet.config.cross_attention_dim
    said: torch.Tensor = unet(torch.randn(1, 4, 8, 8), 500, torch.randn(1, 7, width)).sample
    return said


def bits(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


LORA = LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
LOHA = LoHaConfig(r=2, target_modules=["to_q", "to_k"], init_weights=False)


@pytest.mark.parametrize("adapter", [None, LORA, LOHA])
def test_layer_by_layer_a_unet_says_the_same_and_comes_back_bit_for_bit(
    loaded: LoadedModel, adapter: Any
) -> None:
    if adapter is not None:
        inject_adapter_in_model(adapter, loaded.unet)
    before, said = bits(loaded.unet), call(loaded.unet)
    seen = Seen(loaded.unet)
    arranged = Arrangement(loaded, "sequential")
    for _ in range(2):
        assert torch.equal(call(loaded.unet), said)
        assert all(torch.equal(before[name], value) for name, value in bits(loaded.unet).items())
    assert seen.most_real < len(before) / 4
    arranged.undo()
    assert torch.equal(call(loaded.unet), said)
    assert not any(p.is_inference() for p in loaded.unet.parameters())


class Seen:
    """How many of a network's weights are there at one time, at most, while it is called."""

    def __init__(self, unet: nn.Module) -> None:
        self.most_real = 0

        def count(*_: Any) -> None:
            real = sum(p.device.type != "meta" for p in unet.parameters())
            self.most_real = max(self.most_real, real)

        for module in unet.modules():
            if module is not unet and not list(module.children()):
                module.register_forward_pre_hook(count)


def test_a_call_that_fails_half_way_leaves_no_trace_in_the_next(loaded: LoadedModel) -> None:
    before, said = bits(loaded.unet), call(loaded.unet)
    arranged = Arrangement(loaded, "sequential")

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError

    handle = loaded.unet.mid_block.register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        call(loaded.unet)
    handle.remove()
    assert torch.equal(call(loaded.unet), said)
    arranged.undo()
    assert all(torch.equal(before[name], value) for name, value in bits(loaded.unet).items())


@pytest.mark.parametrize("plan", ["offload", "sequential"])
def test_a_picture_is_the_same_by_every_plan(models: Path, plan: MemoryPlan) -> None:
    engine = TorchEngine(models, device="cpu", dtype="fp32")
    full = draw(engine, task="img2img", num_images=2)
    engine._cache._place = Separate(torch.device("cpu"), torch.float32)
    requests = {
        "k": make_request(task="img2img", num_images=2, memory_plan=plan),
        "beside": make_request(model="v2/velocity", memory_plan=plan),
    }
    done = last(run(engine, requests)["k"])
    assert (pixels(done) == full).all()
    assert done.memory is not None and done.memory.plan == plan
    assert {held.plan for held in engine.holdings().loaded} == {plan}
    assert (draw(engine, task="img2img", num_images=2) == full).all()
    engine.close()
