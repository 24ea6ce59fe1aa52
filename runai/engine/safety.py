"""The NSFW filter: CompVis' safety checker, when a request asks for it.

It is looked for in its own folder under the base paths, then inside diffusers models, whose
`safety_checker` is the same network for all of them. It is never skipped silently: asked for and
absent is an error, or, as the server is configured, a note with the pictures. The example model
is let through, because it can draw nothing but shapes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from runai.engine.catalogue import Entry
from runai.engine.devices import Place, is_out_of_memory
from runai.engine.faults import is_device_lost
from runai.engine.images import Picture
from runai.engine.weight_names import HALF, PLAIN
from runai.errors import FilterMissing, OutOfMemory
from runai.schema.requests import GenerationRequest

FOLDER = Path("CompVis/stable-diffusion-safety-checker")
Missing = Literal["error", "warn"]
# what the libraries raise for files that are damaged or do not belong together
BROKEN = (
    OSError,
    ValueError,
    LookupError,
    RuntimeError,
    TypeError,
    AttributeError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
)


class SafetyFilter:
    """Loads the checker on first use. `missing`: what to do for want of it.

    `models`: gives the folders of the diffusers models that there are now.
    """

    def __init__(
        self,
        base_paths: Sequence[Path],
        place: Place,
        models: Callable[[], Iterable[Path]] = tuple,
        missing: Missing = "error",
    ) -> None:
        self._base_paths = base_paths
        self._place = place
        self._models = models
        self._missing = missing
        self._parts: tuple[Any, Any] | None = None

    @property
    def byte_size(self) -> int:
        """Of the checker, while it is loaded: from its first use on."""
        return sum(p.nbytes for p in self._parts[1].parameters()) if self._parts else 0

    def require(self, request: GenerationRequest, entry: Entry) -> list[str]:
        """Make ready to check a request's pictures if it asks for that; notes on it.

        Raises FilterMissing if that cannot be done, or says so in a note.
        """
        if not request.nsfw_filter:
            return []
        if entry.example:
            return ["The pictures were not checked: the example model can draw shapes only."]
        try:
            self._load()
        except FilterMissing as error:
            if self._missing == "error":
                raise
            return [f"The pictures were not checked: {error.message}"]
        return []

    @torch.inference_mode()
    def check(self, picture: Picture) -> tuple[Picture, bool]:
        """The picture, blackened if it was flagged, and whether it was. Only after `require`."""
        if self._parts is None:  # a note says so
            return picture, False
        extractor, checker = self._parts
        given = extractor(picture, return_tensors="pt").pixel_values
        _, flagged = checker(
            images=np.asarray(picture)[None] / 255.0,
            clip_input=given.to(self._place.device, self._place.dtype),
        )
        return (Image.new("RGB", picture.size), True) if flagged[0] else (picture, False)

    def _load(self) -> None:
        if self._parts is not None:
            return
        found = next((f for f in self._candidates() if (f[1] / "config.json").is_file()), None)
        if found is None:
            raise FilterMissing(
                f"The NSFW filter was asked for, but there is no {FOLDER} in the model folder, "
                "nor a model that brings one.",
                field="nsfw_filter",
            )
        self._parts = _load(*found, self._place)

    def _candidates(self) -> Iterator[tuple[Path, Path]]:
        """Folders where the image processor and the checker may be, best first."""
        for base in self._base_paths:
            yield base / FOLDER, base / FOLDER
        for model in self._models():
            yield model / "feature_extractor", model / "safety_checker"


def _load(processor: Path, checker: Path, place: Place) -> tuple[Any, Any]:
    """Image processor and network; FilterMissing if they cannot be loaded whole."""
    try:
        return _read(processor, checker, place)
    except BROKEN as error:
        if is_device_lost(error):
            raise
        if is_out_of_memory(error):
            raise OutOfMemory("There is not enough memory for the NSFW filter.") from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise FilterMissing(
            f"The NSFW filter in {checker.parent.name}/{checker.name} cannot be loaded: {reason}",
            hint="Fetch it again, or turn the filter off.",
            field="nsfw_filter",
        ) from error


def _read(processor: Path, checker: Path, place: Place) -> tuple[Any, Any]:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    extractor = CLIPImageProcessor.from_pretrained(processor, local_files_only=True)
    network, report = StableDiffusionSafetyChecker.from_pretrained(
        checker,
        local_files_only=True,
        torch_dtype=place.dtype,
        variant=None if any((checker / name).is_file() for name in PLAIN) else HALF[1:],
        output_loading_info=True,
    )
    # transformers fills what a file lacks with random numbers: a filter that lets all through
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(f"{len(lacking)} tensors are missing ({lacking[0]} first).")
    return extractor, network.to(place.device).eval()
