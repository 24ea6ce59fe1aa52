"""The scenes, in their order: each begins with a ready server and ends with an idle dock."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Callable, Iterator

from krita import Krita
from PyQt5.QtWidgets import QComboBox, QLabel, QWidget

from . import stage

PROMPT = "a red circle on a blue background"
MANY = 50
Questions = Iterator[Callable[[], Any]]


def starting() -> Questions:
    """Nobody has started a server: the plugin does."""
    yield lambda: stage.dock() is not None
    stage.window().resize(1440, 900)
    stage.window().move(0, 0)
    stage.dock().show()
    stage.dock().raise_()
    seen = set()
    yield lambda: seen.add(stage.server_says()) or stage.is_ready()
    models = stage.part("model", QComboBox)
    return {
        "seen": sorted(seen),
        "models": [models.itemText(index) for index in range(models.count())],
        "pid": stage.dock().desk.starter.pid,
    }


def words_alone() -> Questions:
    """txt2img where something is selected, with progress and previews; and undo."""
    document = stage.new_document(512, 384)
    stage.select(document, 64, 40, 128, 128)
    stage.fill(PROMPT, seed="5", steps=12)
    steps, previews = set(), set()

    def look() -> bool:
        steps.add(stage.progress())
        previews.add(stage.part("preview", QWidget).isVisible())
        return len(stage.layers(document)) == 2

    stage.press("generate")
    yield look
    yield stage.is_idle
    plan = stage.part("plan", QLabel).text()
    layer = stage.layers(document)[-1]
    facts = {
        "plan": plan,
        "steps": sorted(steps),
        "previews": sorted(previews),
        "layers": stage.names(document),
        "active": document.activeNode().name(),
        "box": stage.box(layer),
        "picture": stage.save_layer(layer, document, "words_alone.png"),
    }
    Krita.instance().action("edit_undo").trigger()
    yield stage.has_layers(document, 1)
    Krita.instance().action("edit_redo").trigger()
    yield stage.has_layers(document, 2)
    facts["again"] = stage.names(document)
    stage.shoot("first.png")
    return facts


SCENES = [starting, words_alone]
_ = (os, signal, time, MANY)
