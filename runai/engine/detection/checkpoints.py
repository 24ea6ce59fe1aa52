"""Which architecture a whole checkpoint in the original's naming is.

PURE. A few names and shapes say it: the UNet's first convolution (channels in), a
cross-attention key projection (width of the text), the label embedding (none, of sizes, or of
noise levels), and for the pruned descendants of SDXL how deep the transformers are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runai.engine.archs import ARCHS, Arch
from runai.engine.detection.finding import Finding, broken, foreign

Shapes = Mapping[str, Sequence[int]]
UNET = "model.diffusion_model."
FIRST = UNET + "input_blocks.0.0.weight"
_KEYS = ".attn2.to_k.weight"
VAE = "first_stage_model."
# by this a distilled UNet is told how much to be guided
TOLD = UNET + "time_embed.cond_proj.weight"
# tensors of a whole UNet of the published size
UNET_TENSORS = {
    "sd1": 686,
    "sd1-inpaint": 686,
    "sd1-edit": 686,
    "sd2": 686,
    "sd2-inpaint": 686,
    "sd2-depth": 686,
    "upscale-x4": 687,
    "sdxl": 1680,
    "sdxl-inpaint": 1680,
    "sdxl-edit": 1680,
    "sdxl-refiner": 1220,
    "ssd-1b": 944,
    "segmind-vega": 564,
}


def _label(arch: Arch) -> str:
    return (
        "sizes"
        if "addition_embed_type" in arch.unet
        else ("classes" if "num_class_embeds" in arch.unet else "")
    )


# (channels in, text width, label) -> arch; of rows that share it the first is meant
_FAMILIES: dict[tuple[int, int, str], str] = {}
for _arch in ARCHS.values():
    _FAMILIES.setdefault(
        (_arch.unet["in_channels"], _arch.unet["cross_attention_dim"], _label(_arch)), _arch.name
    )


def arch_of(shapes: Shapes, names: str) -> Finding:
    """The arch of a checkpoint, its kind of prediction left open. `names`: all, one a line."""
    keys = next((key for key in shapes if key.endswith(_KEYS)), None)
    first = shapes[FIRST]
    if keys is None or len(first) != 4 or len(shapes[keys]) != 2:
        return foreign("its UNet is not of the Stable Diffusion family")
    channels, width = first[1], shapes[keys][1]
    arch = _FAMILIES.get((channels, width, _label_in(shapes)))
    if arch is None:
        return foreign(
            f"its UNet reads {channels} channels and text of width {width}, "
            "which is none of the known architectures"
        )
    if arch == "sdxl":
        arch = _pruned(names)
    return _incomplete(ARCHS[arch], shapes, names) or Finding("model", arch)


def _label_in(shapes: Shapes) -> str:
    if f"{UNET}label_emb.weight" in shapes:
        return "classes"
    return "sizes" if f"{UNET}label_emb.0.0.weight" in shapes else ""


def _pruned(names: str) -> str:
    """SDXL, or which descendant: they have no attention in the middle."""
    if f"{UNET}middle_block.1." in names:
        return "sdxl"
    return "ssd-1b" if ".transformer_blocks.2." in names else "segmind-vega"


def _incomplete(arch: Arch, shapes: Shapes, names: str) -> Finding | None:
    """What is missing of a model, if anything that nothing else can stand in for."""
    if not all(f"\n{row.prefix}" in names for row in arch.texts):
        alone = f"\n{VAE}" not in names
        return foreign("it is a UNet alone" if alone else "its text encoder is missing")
    count, whole = names.count(f"\n{UNET}"), UNET_TENSORS[arch.name]
    if shapes[FIRST][0] == arch.unet["block_out_channels"][0] and count < whole:
        return broken(
            f"it holds {count} of the {whole} tensors of its UNet: it is incomplete, "
            "or pruned in a way that is not known"
        )
    return None
