"""Krita's documents: what is selected, what is to be seen there, and new layers.

In the GUI thread only. Pictures are read as Krita shows them, all visible layers together, in
8 bits of sRGB whatever the document's own colours are. A new layer goes above the
active one and becomes the active one, in one step that can be undone.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from krita import Krita
from PyQt5.QtCore import QBuffer, QByteArray, QIODevice, QPoint
from PyQt5.QtGui import QImage, QPainter

from .asking import Plan, without_picture
from .geometry import Box

SETTLES_S = 1.0
SRGB = "sRGB-elle-V2-srgbtrc.icc"  # Krita brings it along
BYTES_A_PIXEL = 4  # blue, green, red, alpha: of Krita's 8-bit layers and of Qt's ARGB32 alike


class Place(NamedTuple):
    """Where a picture belongs. `mask`: how far each pixel was selected; none: all of it."""

    document: Any
    box: Box
    mask: bytes | None


class Gone(Exception):
    """The document has been closed."""


def bounds(document: Any) -> Box:
    return Box(document.xOffset(), document.yOffset(), document.width(), document.height())


def selected(document: Any) -> Box | None:
    """The box around the selection; None if nothing is selected."""
    found = document.selection()
    if found is None or found.width() <= 0 or found.height() <= 0:
        return None
    return Box(found.x(), found.y(), found.width(), found.height())


def place(document: Any, box: Box) -> Place:
    found = document.selection()
    mask = bytes(found.pixelData(*box)) if found is not None else None
    return Place(document, box, mask)


def look(where: Place, planned: Plan) -> tuple[Plan, bytes | None, bytes | None]:
    """The pictures that the plan's task wants, as PNG files; and the task that is left of it."""
    if planned.task == "txt2img":
        return planned, None, None
    where.document.waitForDone()  # a stroke that is not finished is not to be seen yet
    image = where.document.projection(*where.box)
    if _is_plain(image):
        planned = without_picture(planned)
    mask = _png(_gray(where)) if planned.task == "inpaint" else None
    return planned, _png(_on_white(image)), mask


def _is_plain(image: QImage) -> bool:
    """Whether there is one colour, or nothing at all."""
    pixels = _pixels(image)
    return pixels == pixels[:BYTES_A_PIXEL] * (len(pixels) // BYTES_A_PIXEL)


def _pixels(image: QImage) -> bytes:
    same = image.convertToFormat(QImage.Format_ARGB32)
    data = same.constBits()
    data.setsize(same.sizeInBytes())
    return bytes(data)


def _on_white(image: QImage) -> QImage:
    """A model knows no transparency; paper is white."""
    paper = QImage(image.size(), QImage.Format_RGB32)
    paper.fill(0xFFFFFFFF)
    painter = QPainter(paper)
    painter.drawImage(QPoint(0, 0), image)
    painter.end()
    return paper


def _gray(where: Place) -> QImage:
    width, height = where.box.width, where.box.height
    mask = QImage(where.mask, width, height, width, QImage.Format_Grayscale8)
    return mask.copy()  # Qt does not keep the bytes


def _png(image: QImage) -> bytes:
    data = QByteArray()
    buffer = QBuffer(data)
    buffer.open(QIODevice.WriteOnly)
    image.save(buffer, "PNG")
    return bytes(data)


class Layers:
    """Makes them, each above the one before.

    Krita makes a new layer the active one in its own time. So for a moment it says nothing about
    what the user wants that one made here is active, or what was active before it.
    """

    def __init__(self) -> None:
        self._recent: list[Any] = []  # what was active, then the layers made since, not yet settled
        self._settled_at = 0.0

    def insert(self, where: Place, png: bytes, name: str) -> None:
        """The picture as a layer, transparent where nothing was selected. Raises Gone."""
        document = where.document
        if document not in Krita.instance().documents():
            raise Gone
        layer = _filled(document.createNode(name, "paintlayer"), where, QImage.fromData(png))
        above = self._above(document)
        parent = above.parentNode() if above is not None else document.rootNode()
        parent.addChildNode(layer, above)
        document.waitForDone()  # else it would not be in the document yet
        self._recent.append(layer)
        self._settled_at = time.monotonic() + SETTLES_S

    def _above(self, document: Any) -> Any:
        active = document.activeNode()
        if active in self._recent and time.monotonic() < self._settled_at:
            newest = self._recent[-1]
            if newest.parentNode() is not None:  # it has not been undone
                return newest
        self._recent = [active]
        return _layer_of(active, document)


def _filled(layer: Any, where: Place, image: QImage) -> Any:
    document = where.document
    pixels = bytearray(_pixels(image))
    if where.mask is not None:
        pixels[BYTES_A_PIXEL - 1 :: BYTES_A_PIXEL] = where.mask
    if (document.colorModel(), document.colorDepth()) != ("RGBA", "U8"):
        layer.setColorSpace("RGBA", "U8", SRGB)
    size = (image.width(), image.height())
    layer.setPixelData(QByteArray(bytes(pixels)), where.box.x, where.box.y, *size)
    return layer


def _layer_of(node: Any, document: Any) -> Any:
    """The node, or the layer that it is a mask of; None: there is no layer."""
    while node is not None and node.type().endswith("mask"):
        node = node.parentNode()
    return None if node is None or node == document.rootNode() else node
