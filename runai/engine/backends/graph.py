"""diffusers' networks as OpenVINO graphs, written down layer by layer.

Theory of operation. OpenVINO can convert a network by tracing it: that takes 20 s and more, and
a process's worth of memory. A UNet and a VAE's decoder are made of a dozen kinds of layers, so
here each kind is written down once (`_LAYERS`, `_BLOCKS`), and a graph is made by walking the
network as its `forward` does. Its weights are those of the network, not copies; it takes
under a second. Every size but the channels is open: one graph serves all pictures.

What a UNet is told besides the latents and the text comes in as one vector, which torch
computes: so what differs between architectures there does not matter here.

Rule: a layer that is not known, or is set to do something else than what is written down, raises
Unknown, and torch draws. Nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import nn

from runai.engine.backends.quietly import ops, ov

Node = Any  # OpenVINO's nodes and outputs, which are as good as each other
_TYPES = {torch.float32: ov.Type.f32, torch.bfloat16: ov.Type.bf16}


class Unknown(Exception):
    """This network does something that is not written down here."""


def of_unet(unet: Any) -> ov.Model:
    """Inputs: latents rows × channels × h × w, emb rows × width, text rows × tokens × width.

    fp32, and so is what comes out: rows × channels × h × w.
    """
    _require(unet.encoder_hid_proj is None and unet.time_embed_act is None, unet)
    _require(not unet.config.center_input_sample, unet)
    latents = _input("latents", -1, unet.config.in_channels, -1, -1)
    emb = _input("emb", -1, unet.time_embedding.linear_2.out_features)
    text = _input("text", -1, -1, unet.config.cross_attention_dim)
    told = _Told(ops.swish(emb), text)
    x = _layer(unet.conv_in, latents)
    skipped = [x]
    for block in unet.down_blocks:
        x, left = _down(block, x, told)
        skipped += left
    if unet.mid_block is not None:
        x = _mid(unet.mid_block, x, told)
    for block in unet.up_blocks:
        mine = [skipped.pop() for _ in block.resnets]
        x = _up(block, x, told, mine, skipped[-1] if skipped else None)
    return ov.Model([_last(unet, x)], [latents, emb, text], "unet")


def of_decoder(vae: Any) -> ov.Model:
    """What `vae.decode` computes: latents rows × channels × h × w to pixels, all fp32."""
    latents = _input("latents", -1, vae.config.latent_channels, -1, -1)
    decoder = vae.decoder
    x = _layer(vae.post_quant_conv, latents) if vae.post_quant_conv is not None else latents
    x = _mid(decoder.mid_block, _layer(decoder.conv_in, x), _Told())
    for block in decoder.up_blocks:
        x = _up(block, x, _Told(), [], None)
    return ov.Model([_last(decoder, x)], [latents], "decoder")


class _Told:
    """What all blocks are told: the activated embedding and the text, where there are any."""

    def __init__(self, emb: Node | None = None, text: Node | None = None) -> None:
        self.emb = emb
        self.text = text


# --- blocks ------------------------------------------------------------------------------


def _down(block: Any, x: Node, told: _Told) -> tuple[Node, list[Node]]:
    """What a block of the way down says, and what it leaves for the way up."""
    left = []
    for resnet, attention in zip(block.resnets, _attentions(block), strict=True):
        x = _attended(attention, _resnet(resnet, x, told), told)
        left.append(x)
    for downsampler in block.downsamplers or ():
        x = _downsampled(downsampler, x)
        left.append(x)
    return x, left


def _mid(block: Any, x: Node, told: _Told) -> Node:
    first, *others = block.resnets
    x = _resnet(first, x, told)
    for attention, resnet in zip(block.attentions or [None] * len(others), others, strict=True):
        x = _resnet(resnet, _attended(attention, x, told), told)
    return x


def _up(block: Any, x: Node, told: _Told, skipped: Sequence[Node], following: Node | None) -> Node:
    """`skipped`: what the way down left for it, the last first; `following`: for the next one."""
    _require(not getattr(block, "s1", None), block)  # FreeU
    beside = list(skipped) or [None] * len(block.resnets)
    for resnet, attention, other in zip(block.resnets, _attentions(block), beside, strict=True):
        x = x if other is None else ops.concat([x, other], 1)
        x = _attended(attention, _resnet(resnet, x, told), told)
    for upsampler in block.upsamplers or ():
        x = _upsampled(upsampler, x, following)
    return x


def _attentions(block: Any) -> list[Any]:
    return list(getattr(block, "attentions", None) or [None] * len(block.resnets))


def _last(network: Any, x: Node) -> Node:
    return _layer(network.conv_out, ops.swish(_layer(network.conv_norm_out, x)))


def _resnet(block: Any, x: Node, told: _Told) -> Node:
    _require(isinstance(block, ResnetBlock2D), block)
    _require(block.time_embedding_norm == "default" or block.time_emb_proj is None, block)
    _require(block.upsample is None and block.downsample is None, block)
    _require(isinstance(block.nonlinearity, nn.SiLU) and not block.skip_time_act, block)
    inside = _layer(block.conv1, ops.swish(_layer(block.norm1, x)))
    if block.time_emb_proj is not None:
        told_here = _layer(block.time_emb_proj, told.emb)
        inside = ops.add(inside, ops.unsqueeze(told_here, _numbers(2, 3)))
    inside = _layer(block.conv2, ops.swish(_layer(block.norm2, inside)))
    x = x if block.conv_shortcut is None else _layer(block.conv_shortcut, x)
    return _divided(ops.add(x, inside), block.output_scale_factor)


def _downsampled(block: Any, x: Node) -> Node:
    _require(isinstance(block, Downsample2D) and block.use_conv and block.norm is None, block)
    _require(block.padding == 1, block)
    return _layer(block.conv, x)


def _upsampled(block: Any, x: Node, like: Node | None) -> Node:
    """Doubled; or made as large as what it is joined with, which may be odd."""
    _require(isinstance(block, Upsample2D) and block.use_conv and block.norm is None, block)
    _require(not block.use_conv_transpose and block.interpolate, block)
    if like is None:
        factors = ops.constant([2.0, 2.0], ov.Type.f32)
        return _layer(block.conv, _resized(x, factors, "scales"))
    size = ops.gather(ops.shape_of(like), _numbers(2, 3), _number(0))
    return _layer(block.conv, _resized(x, size, "sizes"))


def _resized(x: Node, to: Node, kind: str) -> Node:
    return ops.interpolate(
        x,
        to,
        "nearest",
        kind,
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        axes=_numbers(2, 3),
    )


# --- attention ---------------------------------------------------------------------------


def _attended(block: Any, x: Node, told: _Told) -> Node:
    if block is None:
        return x
    if isinstance(block, Attention):
        return _attention_of_pixels(block, x)
    _require(isinstance(block, Transformer2DModel) and block.is_input_continuous, block)
    inside = _layer(block.norm, x)
    if block.use_linear_projection:
        rows = _layer(block.proj_in, _as_rows(inside))
    else:
        rows = _as_rows(_layer(block.proj_in, inside))
    for layer in block.transformer_blocks:
        rows = _transformed(layer, rows, told)
    if block.use_linear_projection:
        inside = _as_picture(_layer(block.proj_out, rows), x, block.proj_out.out_features)
    else:
        inside = _layer(block.proj_out, _as_picture(rows, x, block.proj_out.in_channels))
    return ops.add(inside, x)


def _transformed(block: Any, x: Node, told: _Told) -> Node:
    _require(isinstance(block, BasicTransformerBlock) and block.norm_type == "layer_norm", block)
    _require(block.pos_embed is None and block.attn2 is not None, block)
    other = told.text if block.only_cross_attention else None
    x = ops.add(x, _attention(block.attn1, _layer(block.norm1, x), other))
    x = ops.add(x, _attention(block.attn2, _layer(block.norm2, x), told.text))
    gate, _, out = block.ff.net
    _require(isinstance(gate, GEGLU), block)
    halves = ops.split(_layer(gate.proj, _layer(block.norm3, x)), _number(-1), 2)
    gated = ops.multiply(halves.output(0), ops.gelu(halves.output(1), "erf"))
    return ops.add(x, _layer(out, gated))


def _attention(block: Any, x: Node, other: Node | None) -> Node:
    """Rows × tokens × width; keys and values of `other`, where it is given."""
    _require(type(block.processor) is AttnProcessor2_0, block)
    _require(block.spatial_norm is None and not block.norm_cross, block)
    _require(block.norm_q is None and block.norm_k is None, block)
    other = x if other is None else other
    width = block.to_k.out_features // block.heads
    query, key, value = (
        _in_heads(_layer(layer, given), block.heads, width)
        for layer, given in ((block.to_q, x), (block.to_k, other), (block.to_v, other))
    )
    said = ops.transpose(ops.scaled_dot_product_attention(query, key, value), _numbers(0, 2, 1, 3))
    joined = ops.reshape(said, _numbers(0, 0, block.heads * width), True)
    return _divided(_layer(block.to_out[0], joined), block.rescale_output_factor)


def _attention_of_pixels(block: Any, x: Node) -> Node:
    """A VAE's: each pixel looks at all of them."""
    _require(block.group_norm is not None and block.residual_connection, block)
    _require(block.rescale_output_factor == 1, block)
    said = _attention(block, _as_rows(_layer(block.group_norm, x)), None)
    return ops.add(_as_picture(said, x, block.to_out[0].out_features), x)


def _in_heads(x: Node, heads: int, width: int) -> Node:
    return ops.transpose(ops.reshape(x, _numbers(0, 0, heads, width), True), _numbers(0, 2, 1, 3))


def _as_rows(x: Node) -> Node:
    """Rows × channels × h × w to rows × pixels × channels."""
    flat = ops.reshape(x, _numbers(0, 0, -1), True)
    return ops.transpose(flat, _numbers(0, 2, 1))


def _as_picture(rows: Node, like: Node, channels: int) -> Node:
    sides = ops.gather(ops.shape_of(like), _numbers(2, 3), _number(0))
    shape = ops.concat([_numbers(0, channels), sides], 0)
    return ops.reshape(ops.transpose(rows, _numbers(0, 2, 1)), shape, True)


# --- layers ------------------------------------------------------------------------------


def _layer(layer: nn.Module, x: Node) -> Node:
    written = _LAYERS.get(type(layer))
    if written is None:
        raise Unknown(f"a layer of the kind {type(layer).__name__}")
    return written(layer, x)


def _conv(layer: nn.Conv2d, x: Node) -> Node:
    _require(layer.groups == 1 and layer.padding_mode == "zeros", layer)
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
    normed = ops.mvn(x, _numbers(-1), True, layer.eps, "inside_sqrt")
    return ops.add(ops.multiply(normed, _weight(layer.weight)), _weight(layer.bias))


_LAYERS: dict[type, Callable[[Any, Node], Node]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
}


# --- small things ------------------------------------------------------------------------


def _input(name: str, *shape: int) -> Node:
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


def _numbers(*numbers: int) -> Node:
    return ops.constant(list(numbers), ov.Type.i64)


def _number(number: int) -> Node:
    return ops.constant(number, ov.Type.i64)


def _divided(x: Node, by: float) -> Node:
    return x if by == 1 else ops.divide(x, ops.constant(float(by), ov.Type.f32))


def _require(holds: bool, network: Any) -> None:
    if not holds:
        raise Unknown(f"a {type(network).__name__} that does more")
