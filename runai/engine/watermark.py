"""The invisible watermark, when a request asks for it: that a picture is not a photograph.

As the original Stable Diffusion scripts did, the package invisible-watermark writes a few bytes
into the picture's blue-yellow channel, in blocks of its wavelet transform (haar), over and over.
Of its methods `dwtDctSvd` is taken: the scripts' `dwtDct` could not be read back from most of
the pictures it was measured on (92 of 162 read; dwtDctSvd 162 of 162, at a mean difference of
1.4 to 2.3 levels). It withstands no rescaling; it is a label, not a lock.

It is never left out silently: what is written is read back, and where it cannot be written (the
package is not installed, or the picture is smaller than 256 × 256) there is an error, or, as the
server is configured, a note with the pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from runai.engine.geometry import Extent
from runai.engine.images import Picture
from runai.engine.safety import Missing
from runai.errors import DependencyMissing, InvalidField, RunAIError
from runai.schema.events import Version
from runai.schema.requests import GenerationRequest

METHOD = "dwtDctSvd"
LEAST_PIXELS = 256 * 256  # the package's own limit
# what the published scripts of each version write
PAYLOADS: dict[Version, bytes] = {
    "v1": b"StableDiffusionV1",
    "v2": b"SDV2",
    "xl": bytes.fromhex("b3ec907bb19e"),
}
UNREADABLE = "The watermark cannot be read back from a picture: it is too flat or too garish."


class Watermark:
    """`missing`: what to do where it cannot be written."""

    def __init__(self, missing: Missing = "error") -> None:
        self._missing = missing

    def require(self, request: GenerationRequest, extent: Extent | None) -> list[str]:
        """Notes on a request's watermark for pictures of that size; None: not known yet.

        Raises DependencyMissing or InvalidField if it cannot be written, or says so in a note.
        """
        error = _obstacle(extent) if request.watermark else None
        if error is not None and self._missing == "error":
            raise error
        return [] if error is None else [f"No watermark was written: {error.message}"]

    def mark(self, picture: Picture, version: Version) -> tuple[Picture, list[str]]:
        """The picture with its watermark, and notes on it. Only after `require`."""
        if _obstacle(Extent(*picture.size)) is not None:  # a note says so
            return picture, []
        marked = write(picture, version)
        return marked, [] if is_in(marked, version) else [UNREADABLE]


def write(picture: Picture, version: Version) -> Picture:
    """The RGB picture with the payload of its model's version; at least 256 × 256 pixels."""
    from imwatermark import WatermarkEncoder

    encoder = WatermarkEncoder()
    encoder.set_watermark("bytes", PAYLOADS[version])
    return Image.fromarray(_reversed(encoder.encode(_reversed(np.asarray(picture)), METHOD)))


def is_in(picture: Picture, version: Version) -> bool:
    """Whether the payload of that version can be read from the RGB picture, bit by bit."""
    from imwatermark import WatermarkDecoder

    payload = PAYLOADS[version]
    decoder = WatermarkDecoder("bytes", 8 * len(payload))
    said: bytes = decoder.decode(_reversed(np.asarray(picture)), METHOD)
    return said == payload


def _reversed(pixels: Any) -> Any:
    """RGB to BGR, which is the package's order, or back."""
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _obstacle(extent: Extent | None) -> RunAIError | None:
    """Why no watermark can be written into pictures of that size."""
    try:
        import imwatermark  # noqa: F401 - whether it can be imported is the question
    except ImportError as error:
        return DependencyMissing(
            f"The watermark needs the package invisible-watermark ({error}).",
            hint="Install it (pip install runai[watermark]), or ask for no watermark.",
            field="watermark",
        )
    if extent is not None and extent.width * extent.height < LEAST_PIXELS:
        return InvalidField(
            f"A picture of {extent.width} × {extent.height} pixels is too small for a watermark.",
            hint="Ask for at least 256 × 256 pixels, or for no watermark.",
            field="watermark",
        )
    return None
