"""Networks that OpenVINO computes on the processor.

Compiling takes seconds, in which the interpreter is free: it is for a thread in the background.
One compiled network serves every picture size; OpenVINO prepares itself at the first call of
each. It keeps its own copy of the weights, in the order in which its kernels read them, and what
it computed in between: the decoder's, which is the largest, is let go of after each picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from runai.engine.backends.interface import Asked
from runai.engine.backends.quietly import ov
from runai.schema.events import Backend

_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


def can_compute(dtype: torch.dtype) -> bool:
    """Whether this processor computes in the dtype, and not in another one for it."""
    if dtype == torch.float32:
        return True
    able = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return dtype == torch.bfloat16 and "BF16" in able


@dataclass(frozen=True, eq=False)
class OpenVinoDenoiser:
    """`unet`: torch's, which computes the small vector of what it is told. `parts`: the whole, and
    what is computed of it in a shallow call (see `graph.of_unet`).
    """

    unet: Any
    parts: Sequence[ov.CompiledModel]
    backend: Backend = "openvino"
    is_settled: bool = True

    def __call__(self, asked: Asked) -> torch.Tensor:
        return _ask(self.parts[0], *self._inputs(asked))[0]

    def whole(self, asked: Asked) -> tuple[torch.Tensor, torch.Tensor]:
        said, deep = _ask(self.parts[0], *self._inputs(asked))
        return said, deep

    def shallow(self, asked: Asked, deep: torch.Tensor) -> torch.Tensor:
        return _ask(self.parts[1], *self._inputs(asked), deep)[0]

    def _inputs(self, asked: Asked) -> tuple[torch.Tensor, ...]:
        latents = asked.latents.to(asked.text.dtype)
        emb = _embedded(self.unet, latents, asked.timesteps, asked.told)
        return asked.latents, emb, asked.text


@dataclass(frozen=True, eq=False)
class OpenVinoDecoder:
    parts: Sequence[ov.CompiledModel]
    backend: Backend = "openvino"

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        (decoder,) = self.parts
        (pixels,) = _ask(decoder, latents)
        decoder.release_memory()
        return pixels


def compiled(
    networks: Sequence[ov.Model],
    dtype: torch.dtype,
    threads: int,
    weights: Sequence[torch.Tensor] = (),
) -> list[ov.CompiledModel]:
    """Takes seconds. Raises RuntimeError. `weights`: those that the graphs read in place, which
    they do not hold themselves.
    """
    options = {
        "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    return [ov.Core().compile_model(network, "CPU", options) for network in networks]


def _embedded(
    unet: Any, latents: torch.Tensor, timesteps: torch.Tensor, told: Mapping[str, Any]
) -> torch.Tensor:
    """Time, class, sizes and guidance as one vector a row, as the UNet's `forward` does it."""
    time = unet.get_time_embed(sample=latents, timestep=timesteps)
    emb = unet.time_embedding(time, told.get("timestep_cond"))
    classes = unet.get_class_embed(sample=latents, class_labels=told.get("class_labels"))
    if classes is not None:
        emb = emb + classes
    added = unet.get_aug_embed(
        emb=emb, encoder_hidden_states=None, added_cond_kwargs=told.get("added_cond_kwargs")
    )
    return emb if added is None else emb + added


def _ask(compiled: ov.CompiledModel, *given: torch.Tensor) -> list[torch.Tensor]:
    arrays = [tensor.float().contiguous().numpy() for tensor in given]
    return [torch.from_numpy(said) for said in compiled(arrays, share_inputs=True).values()]
