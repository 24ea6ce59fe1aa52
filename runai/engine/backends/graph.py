"""diffusers' networks as OpenVINO graphs, written down layer by layer.

Theory of operation. OpenVINO can convert a network by tracing it: that takes 20 s and more, and
a process's worth of memory. A UNet and a VAE's decoder are made of a dozen kinds of layers, so
here each kind is written down once (`layers`), and a graph is made by walking the network as its
`forward` does. Its weights are those of the network, not copies; it takes
under a second. Every size but the channels is open: one graph serves all pictures.

What a UNet is told besides the latents and the text comes in as one vector, which torch
computes: so what differs between architectures there does not matter here.

Rule: a layer that is not known, or is set to do something else than what is written down, raises
Unknown, and torch draws. Nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from runai.engine import reuse
from runai.engine.backends.layers import (
    Node,
    Told,
    attended,
    divided,
    input_of,
    node_of,
    number,
    numbers,
    require,
)
from runai.engine.backends.quietly import ops, ov


def of_unet(unet: Any) -> list[ov.Model]:
    """Inputs: latents rows × channels × h × w, emb rows × width, text rows × tokens × width.

    fp32, and so is what comes out: rows × channels × h × w. Where the deep part can be reused (see
    `reuse`), what it says comes out as well, and a second graph takes it as its last input.
    """
    require(unet.encoder_hid_proj is None and unet.time_embed_act is None, unet)
    require(not unet.config.center_input_sample, unet)
    inputs = _inputs(unet)
    told = Told(ops.swish(inputs[1]), inputs[2])
    x = node_of(unet.conv_in, inputs[0])
    skipped = [x]
    for block in unet.down_blocks:
        x, left = _down(block, x, told)
        skipped += left
    if unet.mid_block is not None:
        x = _mid(unet.mid_block, x, told)
    for block in unet.up_blocks[:-1]:
        mine = [skipped.pop() for _ in block.resnets]
        x = _up(block, x, told, mine, skipped[-1])
    last, mine = unet.up_blocks[-1], skipped[::-1]
    if not reuse.is_possible(unet):
        x = _up(last, x, told, mine, None)
        return [ov.Model([_last(unet, x)], inputs, "unet")]
    require(not last.upsamplers, last)
    outer = len(mine) - reuse.LAYERS
    deep = _joined(last, x, told, mine[:outer], slice(outer))
    x = _joined(last, deep, told, mine[outer:], slice(outer, None))
    return [ov.Model([_last(unet, x), deep], inputs, "unet"), _of_shallow(unet)]


def _of_shallow(unet: Any) -> ov.Model:
    """What a shallow call computes: of the way down only what its layers of the way up read."""
    inputs = _inputs(unet)
    told = Told(ops.swish(inputs[1]), inputs[2])
    deep = input_of("deep", -1, unet.config.block_out_channels[0], -1, -1)
    skipped = [node_of(unet.conv_in, inputs[0])]  # all that a single layer reads of the way down
    x = _joined(unet.up_blocks[-1], deep, told, skipped, slice(-reuse.LAYERS, None))
    return ov.Model([_last(unet, x)], [*inputs, deep], "shallow unet")


def _inputs(unet: Any) -> list[Node]:
    return [
        input_of("latents", -1, unet.config.in_channels, -1, -1),
        input_of("emb", -1, unet.time_embedding.linear_2.out_features),
        input_of("text", -1, -1, unet.config.cross_attention_dim),
    ]


def of_decoder(vae: Any) -> list[ov.Model]:
    """What `vae.decode` computes: latents rows × channels × h × w to pixels, all fp32."""
    latents = input_of("latents", -1, vae.config.latent_channels, -1, -1)
    decoder = vae.decoder
    x = node_of(vae.post_quant_conv, latents) if vae.post_quant_conv is not None else latents
    x = _mid(decoder.mid_block, node_of(decoder.conv_in, x), Told())
    for block in decoder.up_blocks:
        x = _up(block, x, Told(), [], None)
    return [ov.Model([_last(decoder, x)], [latents], "decoder")]


# --- blocks ------------------------------------------------------------------------------


def _down(block: Any, x: Node, told: Told) -> tuple[Node, list[Node]]:
    """What a block of the way down says, and what it leaves for the way up."""
    left = []
    for resnet, attention in zip(block.resnets, _attentions(block), strict=True):
        x = attended(attention, _resnet(resnet, x, told), told)
        left.append(x)
    for downsampler in block.downsamplers or ():
        x = _downsampled(downsampler, x)
        left.append(x)
    return x, left


def _mid(block: Any, x: Node, told: Told) -> Node:
    first, *others = block.resnets
    x = _resnet(first, x, told)
    for attention, resnet in zip(block.attentions or [None] * len(others), others, strict=True):
        x = _resnet(resnet, attended(attention, x, told), told)
    return x


def _up(block: Any, x: Node, told: Told, skipped: Sequence[Node], following: Node | None) -> Node:
    """`skipped`: what the way down left for it, the last first; `following`: for the next one."""
    x = _joined(block, x, told, skipped or [None] * len(block.resnets), slice(None))
    for upsampler in block.upsamplers or ():
        x = _upsampled(upsampler, x, following)
    return x


def _joined(block: Any, x: Node, told: Told, beside: Sequence[Node], which: slice) -> Node:
    """Of a block of the way up some layers, each with what stands beside its input."""
    require(not getattr(block, "s1", None), block)  # FreeU
    layers = zip(block.resnets[which], _attentions(block)[which], beside, strict=True)
    for resnet, attention, other in layers:
        x = x if other is None else ops.concat([x, other], 1)
        x = attended(attention, _resnet(resnet, x, told), told)
    return x


def _attentions(block: Any) -> list[Any]:
    return list(getattr(block, "attentions", None) or [None] * len(block.resnets))


def _last(network: Any, x: Node) -> Node:
    return node_of(network.conv_out, ops.swish(node_of(network.conv_norm_out, x)))


def _resnet(block: Any, x: Node, told: Told) -> Node:
    require(isinstance(block, ResnetBlock2D), block)
    require(block.time_embedding_norm == "default" or block.time_emb_proj is None, block)
    require(block.upsample is None and block.downsample is None, block)
    require(isinstance(block.nonlinearity, nn.SiLU) and not block.skip_time_act, block)
    inside = node_of(block.conv1, ops.swish(node_of(block.norm1, x)))
    if block.time_emb_proj is not None:
        told_here = node_of(block.time_emb_proj, told.emb)
        inside = ops.add(inside, ops.unsqueeze(told_here, numbers(2, 3)))
    inside = node_of(block.conv2, ops.swish(node_of(block.norm2, inside)))
    x = x if block.conv_shortcut is None else node_of(block.conv_shortcut, x)
    return divided(ops.add(x, inside), block.output_scale_factor)


def _downsampled(block: Any, x: Node) -> Node:
    require(isinstance(block, Downsample2D) and block.use_conv and block.norm is None, block)
    require(block.padding == 1, block)
    return node_of(block.conv, x)


def _upsampled(block: Any, x: Node, like: Node | None) -> Node:
    """Doubled; or made as large as what it is joined with, which may be odd."""
    require(isinstance(block, Upsample2D) and block.use_conv and block.norm is None, block)
    require(not block.use_conv_transpose and block.interpolate, block)
    if like is None:
        factors = ops.constant([2.0, 2.0], ov.Type.f32)
        return node_of(block.conv, _resized(x, factors, "scales"))
    size = ops.gather(ops.shape_of(like), numbers(2, 3), number(0))
    return node_of(block.conv, _resized(x, size, "sizes"))


def _resized(x: Node, to: Node, kind: str) -> Node:
    return ops.interpolate(
        x,
        to,
        "nearest",
        kind,
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        axes=numbers(2, 3),
    )
