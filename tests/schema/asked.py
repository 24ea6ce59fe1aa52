"""Requests as clients write them: the smallest valid ones, to change a thing or two in."""

from __future__ import annotations

import base64
from typing import Any

PNG = base64.b64encode(b"\x89PNG").decode()


def generate(**fields: Any) -> dict[str, Any]:
    """A valid native `generate`."""
    return {"type": "generate", "task": "txt2img", "id": "a", **fields}


def plugin(action: str = "txt2img", **options: Any) -> dict[str, Any]:
    """What the plugin sends: every tab's keys, whatever the action, and numbers as they come."""
    tabs = {
        f"{tab}_{key}": value
        for tab in ("txt2img", "img2img", "inpaint", "outpaint")
        for key, value in {
            "prompt": f"{tab} prompt",
            "negative_prompt": f"not {tab}",
            "steps": 20,
            "scale": 7.5,
            "seed": "42",
            "height": 512,
            "width": 576,
            "n_samples": 1,
            "n_iter": 1,
            "strength": 0.8,
            "ddim_eta": 0.0,
            "scheduler": "euler_a",
            "model": "/models/v1/paint.safetensors",
            "model_path": "v1/paint.safetensors",
        }.items()
    }
    common = {
        "do_nsfw_filter": False,
        "do_watermark": False,
        "version": "v1",
        "model_path": "v1/paint.safetensors",
        "model_base_path": "/models",
        "pos_x": 3,
        "pos_y": 4,
        "pixels": PNG,
        "mask": PNG,
        "inpaint_from-file": None,
    }
    return {"action": action, "options": {**tabs, **common, **options}}
