"""What scenes are made of: the dock as a person sees it, documents, selections, layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from krita import Krita, Selection
from PyQt5.QtCore import QByteArray
from PyQt5.QtGui import QImage
from PyQt5.QtWidgets import (
    QAbstractButton,
    QApplication,
    QComboBox,
    QDockWidget,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QProgressBar,
    QSpinBox,
    QWidget,
)

from .playing import OUT

SMALLEST = 0  # in Qt's words for a PNG file's quality
SHORT = 4  # steps: enough for a picture to compare


def window() -> Any:
    return Krita.instance().activeWindow().qwindow()


def dock() -> Any:
    return window().findChild(QDockWidget, "runai_krita")


def part(name: str, kind: Any = QWidget) -> Any:
    """A widget of the dock, as `runai_` and its name."""
    found = dock().findChild(kind, f"runai_{name}")
    assert found is not None, name
    return found


def fill(
    prompt: str = "",
    seed: str = "",
    steps: int = SHORT,
    strength: int = 100,
    only: bool = False,
) -> None:
    """The dock's fields; what is not named is as it is at first, but for the steps."""
    part("prompt", QPlainTextEdit).setPlainText(prompt)
    part("seed", QLineEdit).setText(seed)
    part("steps").setValue(steps)
    part("strength").setValue(strength)
    part("only").setChecked(only)


def press(name: str) -> None:
    button = part(name, QAbstractButton)
    assert button.isEnabled(), name
    button.click()


def server_says() -> str:
    return part("server", QLabel).text()


def server_pid() -> int:
    """Of the server that the plugin has started."""
    pid: int = dock().desk.starter.pid
    return pid


def is_ready() -> bool:
    return server_says() == "Ready."


def setting(name: str) -> str:
    return str(Krita.instance().readSetting("runai_krita", name, ""))


def answer_dialog(port: int, command: str) -> None:
    dialog = QApplication.activeModalWidget()
    dialog.findChild(QSpinBox, "runai_port").setValue(port)
    dialog.findChild(QLineEdit, "runai_command").setText(command)
    dialog.accept()


def plan() -> str:
    return part("plan", QLabel).text()


def choices(name: str) -> list[str]:
    box = part(name, QComboBox)
    return [box.itemText(index) for index in range(box.count())]


def trouble() -> str:
    return part("trouble_text", QLabel).text() if part("trouble").isVisible() else ""


def is_idle() -> bool:
    return not part("cancel", QAbstractButton).isEnabled()


def progress() -> tuple[int, int]:
    bar = part("progress", QProgressBar)
    return (bar.value(), bar.maximum()) if bar.isVisible() else (-1, -1)


def new_document(width: int, height: int, depth: str = "U8") -> Any:
    krita = Krita.instance()
    made = krita.createDocument(width, height, "test", "RGBA", depth, "", 120.0)
    krita.activeWindow().addView(made)
    krita.setActiveDocument(made)
    return made


def paint(document: Any) -> None:
    """A picture on the lowest layer: stripes."""
    width, height = document.width(), document.height()
    rows = (bytes((40, 200 - row % 64, 60 + row % 32 * 4, 255)) * width for row in range(height))
    document.topLevelNodes()[0].setPixelData(QByteArray(b"".join(rows)), 0, 0, width, height)
    document.refreshProjection()
    document.waitForDone()


def select(document: Any, x: int, y: int, width: int, height: int) -> None:
    selection = Selection()
    selection.select(x, y, width, height, 255)
    document.setSelection(selection)


def select_ellipse(document: Any, x: int, y: int, width: int, height: int) -> None:
    data = bytes(
        255 if (2 * (i + 0.5) / width - 1) ** 2 + (2 * (j + 0.5) / height - 1) ** 2 <= 1 else 0
        for j in range(height)
        for i in range(width)
    )
    selection = Selection()
    selection.setPixelData(QByteArray(data), x, y, width, height)
    document.setSelection(selection)


def layers(document: Any) -> list[Any]:
    """From the lowest to the highest, without the mask that the selection is."""
    return [node for node in document.topLevelNodes() if node.type() == "paintlayer"]


def names(document: Any) -> list[str]:
    return [node.name() for node in layers(document)]


def has_layers(document: Any, count: int) -> Callable[[], bool]:
    return lambda: len(layers(document)) == count


def save_layer(node: Any, document: Any, name: str) -> str:
    """The layer's own pixels over the whole document, as a PNG file."""
    size = (document.width(), document.height())
    data = bytes(node.projectionPixelData(0, 0, *size))
    assert len(data) == 4 * size[0] * size[1], len(data)
    image = QImage(data, *size, 4 * size[0], QImage.Format_ARGB32)
    image.save(str(OUT / name))
    return name


def save_shown(document: Any, name: str) -> str:
    """The document as it is shown, as a PNG file."""
    document.waitForDone()
    document.projection(0, 0, document.width(), document.height()).save(str(OUT / name))
    return name


def newest(document: Any, name: str) -> dict[str, Any]:
    """What there is to say of the highest layer."""
    layer = layers(document)[-1]
    bounds = layer.bounds()
    return {
        "layers": names(document),
        "box": [bounds.x(), bounds.y(), bounds.width(), bounds.height()],
        "picture": save_layer(layer, document, name),
    }


def shoot(name: str) -> None:
    """A picture of the whole screen."""
    QApplication.primaryScreen().grabWindow(0).save(str(OUT / name), "PNG", SMALLEST)
