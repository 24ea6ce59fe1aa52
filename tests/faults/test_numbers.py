"""Memory that runs out and numbers that are none, in every network that a picture passes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from drawn import as_base64, held, photo
from safetensors.torch import load_file, save_file

from tests.faults.servers import Drawing
from tests.faults.watching import Table

FIELDS = {
    "text encoder": {"prompt": "never seen before"},
    "UNet": {},
    "VAE decoder": {},
    "VAE encoder": {"task": "img2img", "image": as_base64(photo())},
}
NO_MEMORY = {
    "torch.OutOfMemoryError": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "MemoryError": MemoryError(),
    "a processor's": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to …"),
}


def network_of(server: Drawing, stage: str) -> torch.nn.Module:
    model = held(server.engine)
    networks = {
        "text encoder": model.texts[0].network,
        "UNet": model.unet,
        "VAE decoder": model.vae.decoder,
        "VAE encoder": model.vae.encoder,
    }
    network: torch.nn.Module = networks[stage]
    return network


@pytest.mark.parametrize("stage", FIELDS)
def test_memory_that_runs_out_in_a_network(
    drawing: Callable[..., Drawing], table: Table, stage: str
) -> None:
    server = drawing()
    with table.survived(f"out of memory in the {stage}", server) as watch:
        for kind, error in NO_MEMORY.items():
            network = network_of(server, stage)  # a model may have gone to make room

            def fail(*_: object, error: Exception = error) -> None:
                raise error

            hook = network.register_forward_pre_hook(fail)
            failed = watch.ask(kind, **FIELDS[stage])
            hook.remove()
            assert failed["error"]["code"] == "out_of_memory", failed


SPOILED = {
    "text encoder": ("text_encoder/model.safetensors", "final_layer_norm.bias"),
    "UNet": ("unet/diffusion_pytorch_model.safetensors", "conv_out.bias"),
    "VAE decoder": ("vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.bias"),
    "VAE encoder": ("vae/diffusion_pytorch_model.safetensors", "encoder.conv_out.bias"),
}


@pytest.fixture
def spoiled(models: Path, tmp_path: Path) -> Callable[[str, float], Path]:
    """A base path with a model that has a number in one network that is none."""

    def spoil(stage: str, value: float) -> Path:
        for name in ("plain", "spoiled"):
            shutil.copytree(models / "v1" / "plain", tmp_path / "v1" / name)
        file, ending = SPOILED[stage]
        path = tmp_path / "v1" / "spoiled" / file
        tensors = load_file(path)
        (name,) = [name for name in tensors if name.endswith(ending)]
        tensors[name][0] = value
        save_file(tensors, path, {"format": "pt"})
        return tmp_path

    return spoil


@pytest.mark.parametrize(
    ("stage", "value"), [*((stage, float("nan")) for stage in SPOILED), ("UNet", float("inf"))]
)
def test_a_weight_that_is_no_number(
    drawing: Callable[..., Drawing],
    table: Table,
    spoiled: Callable[[str, float], Path],
    stage: str,
    value: float,
) -> None:
    with table.survived(f"{value} in the {stage}", drawing(spoiled(stage, value))) as watch:
        beside = watch.client()
        beside.request("beside", model="v1/plain", num_inference_steps=8)
        beside.receive_type("progress")
        failed = watch.ask(model="v1/spoiled", preview=True, **FIELDS[stage])
        assert failed["error"]["code"] == "not_finite", failed
        assert "--dtype fp32" in failed["error"]["hint"]
        assert beside.end_of("beside")["type"] == "completed"
