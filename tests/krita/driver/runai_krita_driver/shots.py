"""Screenshots for the documentation: what an artist would see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from krita import Krita
from PyQt5.QtCore import QTimer
from PyQt5.QtWidgets import QDockWidget

from . import stage

SCREEN = (1280, 800)
SETTLED_MS = 1500
SIDE = 128
PICTURES = (
    ("a red circle on a blue background", 5),
    ("a yellow star on a green background", 2),
    ("a green square on a white background", 3),
    ("a blue triangle on a yellow background", 4),
)
KEPT = ("KisLayerBox", "runai_krita", "ToolBox")
Questions = Iterator[Callable[[], Any]]


def settled() -> Callable[[], bool]:
    """True when Krita has had time to draw."""
    timer = QTimer(stage.window())
    timer.setSingleShot(True)
    timer.start(SETTLED_MS)
    return lambda: not timer.isActive()


def tidy() -> None:
    """Only what the picture is about: no other documents, and no other docks at the side."""
    for document in Krita.instance().documents():
        document.setModified(False)
        document.close()
    for dock in stage.window().findChildren(QDockWidget):
        if dock.objectName() not in KEPT:
            dock.hide()
    stage.window().resizeDocks([stage.dock()], [330], 1)  # wide
    stage.window().resizeDocks([stage.dock()], [560], 2)  # high


def words_for_pictures() -> Questions:
    """Four pictures, one beside the other; the fields that are folded away are to be seen."""
    tidy()
    document = stage.new_document(2 * SIDE, 2 * SIDE)
    stage.part("more").setChecked(True)
    for number, (prompt, seed) in enumerate(PICTURES):
        stage.select(document, number % 2 * SIDE, number // 2 * SIDE, SIDE, SIDE)
        stage.fill(prompt, seed=str(seed), steps=20)
        stage.press("generate")
        yield stage.has_layers(document, number + 2)
    yield settled()
    stage.shoot("krita-dock.png")
    return {}


def a_part_repainted() -> Questions:
    """Under way: the preview, the progress."""
    document = Krita.instance().activeDocument()
    stage.part("more").setChecked(False)
    stage.select(document, SIDE // 4, SIDE // 4, SIDE, SIDE // 2)
    stage.fill("a yellow star on a blue background", seed="5", steps=200, only=True)
    yield settled()
    stage.press("generate")
    yield lambda: stage.progress()[0] > 60
    stage.shoot("krita-repainting.png")
    stage.press("cancel")
    yield stage.is_idle
    return {}


def something_wrong() -> Questions:
    """The dock alone."""
    Krita.instance().activeDocument().setSelection(None)
    stage.fill("a yellow star on a blue background", only=True)
    stage.press("generate")
    yield settled()
    stage.dock().grab().save(str(stage.OUT / "krita-error.png"), "PNG", stage.SMALLEST)
    return {"trouble": stage.trouble()}


SHOTS = [words_for_pictures, a_part_repainted, something_wrong]
