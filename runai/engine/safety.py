"""The NSFW filter: CompVis' safety checker, when a request asks for it.

It is never skipped silently: asked for and absent is an error. The example model is let
through, because it can draw nothing but shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from runai.engine.devices import Place
from runai.engine.images import Picture
from runai.errors import FilterMissing

FOLDER = Path("CompVis/stable-diffusion-safety-checker")


class SafetyFilter:
    """Loads the checker from the base paths on first use."""

    def __init__(self, base_paths: Sequence[Path], place: Place) -> None:
        self._base_paths = base_paths
        self._place = place
        self._parts: tuple[Any, Any] | None = None

    def require(self) -> None:
        """Load the checker; FilterMissing if it is not there."""
        if self._parts is not None:
            return
        folder = next((b / FOLDER for b in self._base_paths if (b / FOLDER).is_dir()), None)
        if folder is None:
            raise FilterMissing(
                f"The NSFW filter was asked for, but there is no {FOLDER} in the model folder.",
                field="nsfw_filter",
            )
        self._parts = _load(folder, self._place)

    @torch.inference_mode()
    def check(self, picture: Picture) -> tuple[Picture, bool]:
        """The picture, blackened if it was flagged, and whether it was."""
        self.require()
        assert self._parts is not None
        extractor, checker = self._parts
        given = extractor(picture, return_tensors="pt").pixel_values
        _, flagged = checker(
            images=np.asarray(picture)[None] / 255.0,
            clip_input=given.to(self._place.device, self._place.dtype),
        )
        return (Image.new("RGB", picture.size), True) if flagged[0] else (picture, False)


def _load(folder: Path, place: Place) -> tuple[Any, Any]:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    extractor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    checker = StableDiffusionSafetyChecker.from_pretrained(
        folder, local_files_only=True, torch_dtype=place.dtype
    )
    return extractor, checker.to(place.device).eval()
