"""PURE: how LoRA files end their tensors' names, and what each ending says. One table for
telling such files (`detection`) and for reading them (`loras_files`).
"""

from __future__ import annotations

# suffix -> role; kohya's, PEFT's, diffusers' older ones, LyCORIS'
ROLES = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".alpha": "alpha",
    ".lora.alpha": "alpha",
    "_lora.alpha": "alpha",
    ".dora_scale": "magnitude",
    # PEFT's has one number an output, whatever its form; kohya's form says along what
    **{f".lora_magnitude_vector{end}": "magnitudes" for end in ("", ".weight", ".default.weight")},
    **{f".hada_{x}": f"hada_{x}" for x in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{x}": f"lokr_{x}" for x in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    ".scalar": "scalar",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".weight": "weight",
    ".on_input": "on_input",
}
# suffix -> kind, of those of which nothing here knows the arithmetic
FOREIGN = {
    ".oft_blocks": "OFT",
    ".oft_diag": "OFT",
    ".oft_R.weight": "OFT",
    ".boft_R": "BOFT",
    ".a1.weight": "GLoRA",
    ".vera_lambda_b": "VeRA",
}
# met in other files too
_ELSEWHERE = (".weight", ".alpha", ".scalar")
# names that end so are met in LoRA files only
MARKS = tuple(suffix for suffix in (*ROLES, *FOREIGN) if suffix not in _ELSEWHERE)
