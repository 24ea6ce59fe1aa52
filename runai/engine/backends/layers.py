"""The layers of diffusers' networks as OpenVINO's nodes: each kind is written down once.

Rule: a layer that is not known, or is set to do something else than what is written down, raises
Unknown. Nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from runai.engine.backends.quietly import ops, ov

Node = Any  # OpenVINO's nodes and outputs, which are as good as each other
_TYPES = {torch.float32: ov.Type.f32, torch.bfloat16: ov.Type.bf16}


class Unknown(Exception):
    """This network does something that is not written down here."""


class Told:
    """What all blocks are told: the activated embedding and the text, where there are any."""

    def __init__(self, emb: Node | None = None, text: Node | None = None) -> None:
        self.emb = emb
        self.text = text


# --- attention ---------------------------------------------------------------------------


def attended(block: Any, x: Node, told: Told) -> Node:
    if block is None:
        return x
    if isinstance(block, Attention):
        return _attention_of_pixels(block, x)
    require(isinstance(block, Transformer2DModel) and block.is_input_continuous, block)
    inside = node_of(block.norm, x)
    if block.use_linear_projection:
        rows = node_of(block.proj_in, _as_rows(inside))
    else:
        rows = _as_rows(node_of(block.proj_in, inside))
    for layer in block.transformer_blocks:
        rows = _transformed(layer, rows, told)
    if block.use_linear_projection:
        inside = _as_picture(node_of(block.proj_out, rows), x, block.proj_out.out_features)
    else:
        inside = node_of(block.proj_out, _as_picture(rows, x, block.proj_out.in_channels))
    return ops.add(inside, x)


def _transformed(block: Any, x: Node, told: Told) -> Node:
    require(isinstance(block, BasicTransformerBlock) and block.norm_type == "layer_norm", block)
    require(block.pos_embed is None and block.attn2 is not None, block)
    other = told.text if block.only_cross_attention else None
    x = ops.add(x, _attention(block.attn1, node_of(block.norm1, x), other))
    x = ops.add(x, _attention(block.attn2, node_of(block.norm2, x), told.text))
    gate, _, out = block.ff.net
    require(isinstance(gate, GEGLU), block)
    halves = ops.split(node_of(gate.proj, node_of(block.norm3, x)), number(-1), 2)
    gated = ops.multiply(halves.output(0), ops.gelu(halves.output(1), "erf"))
    return ops.add(x, node_of(out, gated))


def _attention(block: Any, x: Node, other: Node | None) -> Node:
    """Rows × tokens × width; keys and values of `other`, where it is given."""
    require(type(block.processor) is AttnProcessor2_0, block)
    require(block.spatial_norm is None and not block.norm_cross, block)
    require(block.norm_q is None and block.norm_k is None, block)
    other = x if other is None else other
    width = block.to_k.out_features // block.heads
    query, key, value = (
        _in_heads(node_of(layer, given), block.heads, width)
        for layer, given in ((block.to_q, x), (block.to_k, other), (block.to_v, other))
    )
    said = ops.transpose(ops.scaled_dot_product_attention(query, key, value), numbers(0, 2, 1, 3))
    joined = ops.reshape(said, numbers(0, 0, block.heads * width), True)
    return divided(node_of(block.to_out[0], joined), block.rescale_output_factor)


def _attention_of_pixels(block: Any, x: Node) -> Node:
    """A VAE's: each pixel looks at all of them."""
    require(block.group_norm is not None and block.residual_connection, block)
    require(block.rescale_output_factor == 1, block)
    said = _attention(block, _as_rows(node_of(block.group_norm, x)), None)
    return ops.add(_as_picture(said, x, block.to_out[0].out_features), x)


def _in_heads(x: Node, heads: int, width: int) -> Node:
    return ops.transpose(ops.reshape(x, numbers(0, 0, heads, width), True), numbers(0, 2, 1, 3))


def _as_rows(x: Node) -> Node:
    """Rows × channels × h × w to rows × pixels × channels."""
    flat = ops.reshape(x, numbers(0, 0, -1), True)
    return ops.transpose(flat, numbers(0, 2, 1))


def _as_picture(rows: Node, like: Node, channels: int) -> Node:
    sides = ops.gather(ops.shape_of(like), numbers(2, 3), number(0))
    shape = ops.concat([numbers(0, channels), sides], 0)
    return ops.reshape(ops.transpose(rows, numbers(0, 2, 1)), shape, True)


# --- layers ------------------------------------------------------------------------------


def node_of(layer: nn.Module, x: Node) -> Node:
    written = _LAYERS.get(type(layer))
    if written is None:
        raise Unknown(f"a layer of the kind {type(layer).__name__}")
    return written(layer, x)


def _conv(layer: nn.Conv2d, x: Node) -> Node:
    require(layer.groups == 1 and layer.padding_mode == "zeros", layer)
    padding = [int(side) for side in layer.padding]
    said = ops.convolution(
        x, _weight(layer.weight), list(layer.stride), padding, padding, list(layer.dilation)
    )
    return said if layer.bias is None else ops.add(said, _weight(layer.bias.view(1, -1, 1, 1)))


def _linear(layer: nn.Linear, x: Node) -> Node:
    said = ops.matmul(x, _weight(layer.weight), False, True)
    return said if layer.bias is None else ops.add(said, _weight(layer.bias))


def _group_norm(layer: nn.GroupNorm, x: Node) -> Node:
    weight, bias = _weight(layer.weight), _weight(layer.bias)
    return ops.group_normalization(x, weight, bias, layer.num_groups, layer.eps)


def _layer_norm(layer: nn.LayerNorm, x: Node) -> Node:
    normed = ops.mvn(x, numbers(-1), True, layer.eps, "inside_sqrt")
    return ops.add(ops.multiply(normed, _weight(layer.weight)), _weight(layer.bias))


_LAYERS: dict[type, Callable[[Any, Node], Node]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
}


# --- small things ------------------------------------------------------------------------


def input_of(name: str, *shape: int) -> Node:
    node = ops.parameter(ov.PartialShape(list(shape)), ov.Type.f32, name)
    node.output(0).set_names({name})
    return node


def _weight(tensor: torch.Tensor) -> Node:
    """A network's tensor, in place; read as fp32 whatever it is stored as."""
    if tensor.dtype not in _TYPES or not tensor.is_contiguous():
        raise Unknown(f"weights of {tensor.dtype}")
    tensor = tensor.detach()
    if tensor.dtype == torch.float32:
        return ov.op.Constant(ov.Tensor(tensor.numpy(), shared_memory=True), shared_memory=True)
    bits = ov.Tensor(tensor.view(torch.uint16).numpy(), list(tensor.shape), _TYPES[tensor.dtype])
    return ops.convert(ov.op.Constant(bits, shared_memory=True), "f32")


def numbers(*numbers: int) -> Node:
    return ops.constant(list(numbers), ov.Type.i64)


def number(number: int) -> Node:
    return ops.constant(number, ov.Type.i64)


def divided(x: Node, by: float) -> Node:
    return x if by == 1 else ops.divide(x, ops.constant(float(by), ov.Type.f32))


def require(holds: bool, network: Any) -> None:
    if not holds:
        raise Unknown(f"a {type(network).__name__} that does more")
