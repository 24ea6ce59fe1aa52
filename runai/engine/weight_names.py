"""PURE: how diffusers and transformers name the files of weights in a model's folder."""

from __future__ import annotations

# ending -> stems, of diffusers' networks and of transformers'; best first
STEMS = {
    "safetensors": ("diffusion_pytorch_model", "model"),
    "bin": ("diffusion_pytorch_model", "pytorch_model"),
}
HALF = ".fp16"  # the variant that is taken where there is no plain one
PLAIN = tuple(f"{stem}.{ending}" for ending, stems in STEMS.items() for stem in stems)
# best first; each also as shards
WEIGHTS = tuple(
    f"{stem}{variant}.{ending}"
    for ending, stems in STEMS.items()
    for variant in ("", HALF)
    for stem in stems
)
