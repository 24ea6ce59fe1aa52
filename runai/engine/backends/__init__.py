"""Who computes a model's networks: torch, or OpenVINO where that is there and faster.

Theory of operation. Nobody who draws calls a UNet or a VAE's decoder by itself, but the two
that a sample was given when it was admitted (`Networks`). Which those are is decided there and
then, by `choice.Backends`, and holds until the sample's picture is done: so a picture is one
backend's, from its first step to its last. Torch can everything; `graph` tells what OpenVINO can,
and `recording` what CUDA graphs are.

`graph`, `layers` and `openvino_backend` import openvino and are imported where it is used, not
before.
"""

from runai.engine.backends.interface import Asked, Decoder, Denoiser, Networks
from runai.engine.backends.torch_backend import torch_networks

__all__ = ["Asked", "Decoder", "Denoiser", "Networks", "torch_networks"]
