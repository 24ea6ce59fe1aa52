"""Where the parts of a model are while it draws, by plan.

Theory of operation. An `Arrangement` puts a model's parts where a plan wants them; from then
on every call of a network finds its weights on the device, whoever makes the call. That is
done with accelerate's hooks, which run before a network's `forward` (and the VAE's `encode`
and `decode`), so that no code that draws knows of it.

    full, tiling    all parts are on the device
    offload         a part comes to the device when it is called, and the others leave it
    sequential      the same, but of the UNet only the layer that is called is on the device

A part stays until another one is called: through all steps of a picture the UNet is moved once.
Arranging changes no weight: bits come back as they were. `undo` is for code that changes a
network (adding a LoRA's layers), which must find the weights in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from accelerate.utils import send_to_device
from torch import nn

from runai.engine.model import LoadedModel
from runai.engine.plan import IN_MAIN_MEMORY
from runai.schema.requests import MemoryPlan

HOME = torch.device("cpu")


class Arrangement:
    """A plan's arrangement of one model's parts, in force from its making until `undo`."""

    def __init__(self, model: LoadedModel, plan: MemoryPlan) -> None:
        self._parts = tuple(parts(model))
        self._plan = plan
        if plan in IN_MAIN_MEMORY:
            for part in self._parts:
                _move(part, model.device)
            return
        for part in self._parts:
            _move(part, HOME)
            others = [other for other in self._parts if other is not part]
            layered = plan == "sequential" and part is model.unet
            add_hook_to_module(part, _Called(others, model.device, comes=not layered))
            if layered:
                cpu_offload(part, model.device, preload_module_classes=_taken_whole(part))

    def serves(self, model: LoadedModel, plan: MemoryPlan) -> bool:
        """Whether the parts are already where `plan` wants them."""
        if self._plan in IN_MAIN_MEMORY:
            return plan in IN_MAIN_MEMORY
        return self._plan == plan and self._parts == tuple(parts(model))

    def leave(self) -> None:
        """Clear the device for another model, where the plan does not keep the weights there."""
        if self._plan not in IN_MAIN_MEMORY:
            for part in self._parts:
                if part.device.type not in (HOME.type, "meta"):
                    _move(part, HOME)

    def undo(self) -> None:
        """Take the hooks off; what was moved about is in main memory afterwards."""
        if self._plan in IN_MAIN_MEMORY:
            return
        for part in self._parts:
            remove_hook_from_module(part, recurse=True)
            _move(part, HOME)


def parts(model: LoadedModel) -> Iterator[Any]:
    """The networks of a model, in the order in which a picture needs them."""
    yield from (text.network for text in model.texts)
    if model.depth is not None:
        yield model.depth.network
    yield from (model.unet, model.vae)


class _Called(ModelHook):
    """Before a part is called: the others leave the device and, if it `comes`, it comes."""

    def __init__(self, others: Sequence[Any], device: torch.device, *, comes: bool) -> None:
        self._others = others
        self._device = device
        self._comes = comes

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        for other in self._others:
            if other.device.type == self._device.type:
                _move(other, HOME)
        if self._comes and module.device.type != self._device.type:
            _move(module, self._device)
        return send_to_device(args, self._device), send_to_device(kwargs, self._device)


@torch.inference_mode(False)  # or the weights would become tensors that nobody may change
def _move(part: Any, device: torch.device) -> None:
    part.to(device)


def _taken_whole(unet: nn.Module) -> list[str]:
    """Names of the classes that use their children's weights without calling them: adapters."""
    containers = (nn.ParameterDict, nn.ParameterList)
    layers = (m for m in unet.modules() if any(isinstance(c, containers) for c in m.children()))
    return sorted({type(layer).__name__ for layer in layers})
