"""The scenes, in their order: each begins with a ready server and ends with an idle dock."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from krita import Krita
from PyQt5.QtCore import QTimer
from PyQt5.QtWidgets import QApplication

from . import naive, shots, stage

PROMPT = "a red circle on a blue background"
MANY = 50
LONG = 200  # steps: long enough to be interrupted
Questions = Iterator[Callable[[], Any]]


def starting() -> Questions:
    """Nobody has started a server: the plugin does."""
    yield lambda: stage.dock() is not None
    stage.window().resize(*shots.SCREEN)
    stage.window().move(0, 0)
    stage.dock().show()
    stage.dock().raise_()
    seen: set[str] = set()
    yield lambda: seen.add(stage.server_says()) or stage.is_ready()
    return {"seen": sorted(seen), "models": stage.choices("model"), "pid": stage.server_pid()}


def words_alone() -> Questions:
    """txt2img where something is selected, with progress and previews; and undo."""
    document = stage.new_document(512, 384)
    stage.select(document, 64, 40, 128, 128)
    stage.fill(PROMPT, seed="5", steps=12)
    steps: set[tuple[int, int]] = set()
    previews: set[bool] = set()

    def look() -> bool:
        steps.add(stage.progress())
        previews.add(stage.part("preview").isVisible())
        return stage.has_layers(document, 2)()

    stage.press("generate")
    yield look
    yield stage.is_idle
    facts = {
        "plan": stage.plan(),
        "steps": sorted(steps),
        "previews": sorted(previews),
        "active": document.activeNode().name(),
        **stage.newest(document, "words_alone.png"),
    }
    Krita.instance().action("edit_undo").trigger()
    yield stage.has_layers(document, 1)
    Krita.instance().action("edit_redo").trigger()
    yield stage.has_layers(document, 2)
    return facts


def picture_changed() -> Questions:
    """img2img: strength below 100 %."""
    document = stage.new_document(256, 192)
    stage.paint(document)
    stage.select(document, 32, 16, 128, 128)
    stage.save_shown(document, "picture_before.png")
    stage.fill(PROMPT, seed="6", strength=50)
    yield lambda: "50 %" in stage.plan()
    stage.press("generate")
    yield stage.has_layers(document, 2)
    yield stage.is_idle
    return {"plan": stage.plan(), **stage.newest(document, "picture_changed.png")}


def selection_repainted() -> Questions:
    """Inpainting: an ellipse that is selected, and what is around it."""
    document = stage.new_document(256, 192)
    stage.paint(document)
    stage.select_ellipse(document, 60, 50, 80, 60)
    stage.save_shown(document, "repainted_before.png")
    stage.fill(PROMPT, seed="7", only=True)
    stage.press("generate")
    yield stage.has_layers(document, 2)
    yield stage.is_idle
    facts = {"plan": stage.plan(), **stage.newest(document, "repainted_layer.png")}
    stage.save_shown(document, "repainted_after.png")
    return facts


def nothing_there() -> Questions:
    """Strength below 100 %, but the paper is white: there is no picture to change."""
    document = stage.new_document(128, 128)
    stage.fill(PROMPT, seed="5", strength=50)
    stage.press("generate")
    yield stage.has_layers(document, 2)
    yield stage.is_idle
    return stage.newest(document, "nothing_there.png")


def odd_document() -> Questions:
    """No selection, and sides that no model can draw: it is drawn past the edges."""
    document = stage.new_document(100, 70)
    stage.fill(PROMPT, seed="5")
    stage.press("generate")
    yield stage.has_layers(document, 2)
    yield stage.is_idle
    return stage.newest(document, "odd.png")


def deep_document() -> Questions:
    """16 bits a channel: the layer is converted, and looks the same."""
    document = stage.new_document(128, 128, "U16")
    stage.fill(PROMPT, seed="5")
    stage.press("generate")
    yield stage.has_layers(document, 2)
    yield stage.is_idle
    stage.save_shown(document, "deep.png")
    return {"depths": [node.colorDepth() for node in stage.layers(document)]}


def canceled() -> Questions:
    document = stage.new_document(128, 128)
    stage.fill(PROMPT, steps=LONG)
    stage.press("generate")
    yield lambda: stage.progress()[0] > 0
    stage.press("cancel")
    yield stage.is_idle
    return {"layers": stage.names(document), "trouble": stage.trouble()}


def errors_are_shown() -> Questions:
    """The server's, and those that need no server."""
    document = stage.new_document(128, 128)
    said = {}
    stage.fill("a star <lora:nowhere:1>", seed="1")
    stage.press("generate")
    yield lambda: stage.trouble() and stage.is_idle()
    said["lora"] = stage.trouble()
    stage.fill("a star", only=True)
    stage.press("generate")
    said["nothing selected"] = stage.trouble()
    said["layers"] = stage.names(document)
    stage.new_document(3000, 3000)
    stage.fill("a star")
    stage.press("generate")
    said["too large"] = stage.trouble()
    stage.new_document(128, 128)
    stage.press("generate")
    yield stage.is_idle
    said["after one that went well"] = stage.trouble()
    return said


def settings_changed() -> Questions:
    """To a port where nobody listens, with nothing to start; and back."""
    port, command = stage.setting("port"), stage.setting("command")
    document = stage.new_document(128, 128)
    QTimer.singleShot(0, lambda: stage.press("settings"))
    yield QApplication.activeModalWidget
    stage.answer_dialog(port=int(port) + 1, command="")
    yield lambda: stage.server_says().startswith("There is no server")
    facts = {"says": stage.server_says(), "models": stage.choices("model")}
    stage.fill(PROMPT, seed="5")
    stage.press("generate")
    yield lambda: not stage.is_idle()
    stage.press("cancel")
    yield stage.is_idle
    QTimer.singleShot(0, lambda: stage.press("settings"))
    yield QApplication.activeModalWidget
    stage.answer_dialog(port=int(port), command=command)
    yield stage.is_ready
    facts["layers"] = stage.names(document)
    facts["kept"] = [stage.setting("port") == port, stage.setting("command") == command]
    return facts


def server_dies() -> Questions:
    """In the middle of a request; the next one is asked for while there is none."""
    document = stage.new_document(128, 128)
    stage.fill(PROMPT, seed="8", steps=LONG)
    stage.press("generate")
    yield lambda: stage.progress()[0] > 0
    first = stage.server_pid()
    os.kill(first, signal.SIGKILL)
    yield lambda: stage.trouble() and stage.is_idle()
    facts = {"trouble": stage.trouble(), "layers": stage.names(document)}
    stage.fill(PROMPT, seed="5", steps=12)
    stage.press("generate")
    seen: set[str] = set()
    yield lambda: seen.add(stage.server_says()) or stage.has_layers(document, 2)()
    yield lambda: stage.is_idle() and stage.is_ready()
    facts.update(
        pids=[first, stage.server_pid()],
        seen=sorted(seen),
        **stage.newest(document, "after_restart.png"),
    )
    return facts


def many() -> Questions:
    """A request after the other, without waiting: each comes back as a layer."""
    document = stage.new_document(64, 64)
    for seed in range(MANY):
        stage.fill("a star", seed=str(seed), steps=2)
        stage.press("generate")
    yield stage.has_layers(document, MANY + 1)
    yield stage.is_idle
    return {"layers": stage.names(document), "trouble": stage.trouble()}


SCENES = [
    starting,
    words_alone,
    picture_changed,
    selection_repainted,
    nothing_there,
    odd_document,
    deep_document,
    canceled,
    errors_are_shown,
    settings_changed,
    server_dies,
    many,
    naive.original_plugin,
]
