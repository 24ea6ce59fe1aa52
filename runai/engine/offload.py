"""Where the parts of a model are while it draws, by plan.

Theory of operation. An `Arrangement` puts a model's parts where a plan wants them; from then
on every call of a network finds its weights on the device, whoever makes the call. That is
done with accelerate's hooks, which run before a network's `forward` (and the VAE's `encode`
and `decode`), so that no code that draws knows of it.

    full, tiling    all parts are on the device
    offload         a part comes to the device when it is called, and the others leave it
    sequential      the same, but of the UNet only the layer that is called is on the device

A part stays until another one is called: through all steps of a picture the UNet is moved once.
Between calls every network holds all its weights, so that LoRAs can be added to it and taken
out by any plan. Moving changes no weight: bits come back as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.hooks import (
    ModelHook,
    add_hook_to_module,
    attach_align_device_hook,
    remove_hook_from_module,
)
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
            add_hook_to_module(part, (_ByLayers if layered else _Whole)(others, model.device))

    def serves(self, model: LoadedModel, plan: MemoryPlan) -> bool:
        """Whether the model's parts are already where `plan` wants them.

        Where they are is looked at: a VAE that several models share is moved by all of them.
        """
        if self._plan in IN_MAIN_MEMORY:
            there = all(part.device.type == model.device.type for part in parts(model))
            return there and plan in IN_MAIN_MEMORY
        return self._plan == plan and self._parts == tuple(parts(model))

    def leave(self) -> None:
        """Clear the device for another model, where the plan does not keep the weights there."""
        if self._plan not in IN_MAIN_MEMORY:
            for part in self._parts:
                if part.device.type != HOME.type:
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
    if model.tiny is not None:
        yield model.tiny


class _Whole(ModelHook):
    """Before a part is called: the others leave the device, and it comes."""

    def __init__(self, others: Sequence[Any], device: torch.device) -> None:
        self._others = others
        self._device = device

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        for other in self._others:
            if other.device.type == self._device.type:
                _move(other, HOME)
        self._bring(module)
        return send_to_device(args, self._device), send_to_device(kwargs, self._device)

    def _bring(self, module: Any) -> None:
        if module.device.type != self._device.type:
            _move(module, self._device)


class _ByLayers(_Whole):
    """The same for a network of which a layer comes only when it is called, and leaves again."""

    @torch.inference_mode(False)
    def _bring(self, module: Any) -> None:
        _let_layers_stay(module)  # after a call that failed
        attach_align_device_hook(
            module,
            self._device,
            offload=True,
            weights_map=module.state_dict(),
            preload_module_classes=_taken_whole(module),
        )

    @torch.inference_mode(False)
    def post_forward(self, module: Any, output: Any) -> Any:
        _let_layers_stay(module)
        return output


def _let_layers_stay(network: nn.Module) -> None:
    for child in network.children():
        remove_hook_from_module(child, recurse=True)


@torch.inference_mode(False)  # or the weights would become tensors that nobody may change
def _move(part: Any, device: torch.device) -> None:
    part.to(device)


def _taken_whole(unet: nn.Module) -> list[str]:
    """Names of the classes that use their children's weights without calling them: adapters."""
    containers = (nn.ParameterDict, nn.ParameterList)
    layers = (m for m in unet.modules() if any(isinstance(c, containers) for c in m.children()))
    return sorted({type(layer).__name__ for layer in layers})
