"""The dock: fields, two buttons, and what the board says. One for each window, one desk for all."""

from __future__ import annotations

from typing import Any

from krita import DockWidget, DockWidgetFactory, DockWidgetFactoryBase, Krita
from PyQt5.QtCore import Qt, QTimer
from PyQt5.QtGui import QKeySequence
from PyQt5.QtWidgets import (
    QApplication,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QShortcut,
    QVBoxLayout,
    QWidget,
)

from . import asking, canvas, settings
from .desk import Desk
from .fields import Fields
from .settings_dialog import SettingsDialog
from .showing import ServerLine, Showing

TITLE = "RunAI"
SHORTCUT = "Ctrl+Return"
LOOK_AGAIN_MS = 300
PROMINENT = (
    "QPushButton { background: palette(highlight); color: palette(highlighted-text);"
    " border: none; border-radius: 4px; padding: 6px; font-weight: bold; }"
    "QPushButton:disabled { background: palette(mid); }"
)


class Dock(DockWidget):
    """See the module. The desk is opened when the first dock is seen."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.setWindowTitle(TITLE)
        self.desk = desk
        self._fields, self._showing, self._server = Fields(), Showing(), ServerLine()
        self._plan = QLabel()
        self._plan.setObjectName("runai_plan")
        self._plan.setWordWrap(True)
        self._plan.setStyleSheet("font-style: italic")
        self.setWidget(self._whole())
        self._connect()
        self._show_board()

    def canvasChanged(self, canvas: Any) -> None:  # noqa: N802 (Krita's name)
        self._show_plan()

    def showEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        if not self.desk.is_open:
            self.desk.open(settings.read())
        self._watch.start()

    def hideEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        self._watch.stop()

    # --- making it ---------------------------------------------------------------------

    def _whole(self) -> Any:
        whole = QWidget()
        layout = QVBoxLayout(whole)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._scrolling(self._column()), 1)
        layout.addWidget(self._server)
        return whole

    def _column(self) -> Any:
        column = QWidget()
        layout = QVBoxLayout(column)
        layout.addWidget(self._fields)
        layout.addWidget(self._plan)
        layout.addLayout(self._buttons())
        layout.addWidget(self._showing)
        layout.addStretch(1)
        return column

    def _scrolling(self, widget: Any) -> Any:
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarAlwaysOff)
        area.setWidget(widget)
        return area

    def _buttons(self) -> Any:
        self._generate = QPushButton("Generate")
        self._generate.setObjectName("runai_generate")
        self._generate.setStyleSheet(PROMINENT)
        self._cancel = QPushButton("Cancel")
        self._cancel.setObjectName("runai_cancel")
        self._generate.setToolTip(f"{SHORTCUT} does the same")
        row = QHBoxLayout()
        row.addWidget(self._generate, 1)
        row.addWidget(self._cancel)
        return row

    def _connect(self) -> None:
        self._generate.clicked.connect(self._ask)
        shortcut = QShortcut(QKeySequence(SHORTCUT), self._fields)
        shortcut.setContext(Qt.WidgetWithChildrenShortcut)
        shortcut.activated.connect(self._generate.click)
        self._cancel.clicked.connect(self.desk.cancel)
        self.desk.changed.connect(self._show_board)
        self._fields.changed.connect(self._show_plan)
        self._showing.put_away.connect(self._forgive)
        self._server.settings_wanted.connect(self._change_settings)
        # Krita tells nobody when the selection changes
        self._watch = QTimer(self)
        self._watch.setInterval(LOOK_AGAIN_MS)
        self._watch.timeout.connect(self._show_plan)

    # --- what happens ------------------------------------------------------------------

    def _ask(self) -> None:
        self.desk.ask(self._fields.wish(), Krita.instance().activeDocument())

    def _forgive(self) -> None:
        self.desk.board.forgive()
        self._show_board()

    def _change_settings(self) -> None:
        dialog = SettingsDialog(settings.read(), self)
        if dialog.exec_():
            settings.write(dialog.settings())
            self.desk.open(dialog.settings())

    def _show_board(self) -> None:
        board = self.desk.board
        self._fields.offer(board.models, board.last_seed)
        self._showing.show_board(board)
        self._server.show_server(board.state, board.says)
        self._cancel.setEnabled(bool(board.jobs))

    def _show_plan(self) -> None:
        document = Krita.instance().activeDocument()
        self._generate.setEnabled(document is not None)
        self._plan.setText(self._words_for(document))

    def _words_for(self, document: Any) -> str:
        if document is None:
            return "Open or create a picture to draw in."
        wish, selected = self._fields.wish(), canvas.selected(document)
        try:
            planned = asking.plan(wish, selected, canvas.bounds(document))
        except asking.Refused as refused:
            return f"{refused.message} {refused.hint}"
        return asking.sentence(planned, wish, selected is not None)


def add_to(krita: Any) -> None:
    """Register the dock, and leave the server when Krita is closed."""
    desk = Desk()
    QApplication.instance().aboutToQuit.connect(desk.close)
    side = DockWidgetFactoryBase.DockRight
    krita.addDockWidgetFactory(_Factory("runai_krita", side, desk))


class _Factory(DockWidgetFactory):
    """Gives the one desk to each window's dock."""

    def __init__(self, name: str, side: Any, desk: Desk) -> None:
        super().__init__(name, side, Dock)
        self.desk = desk

    def createDockWidget(self) -> Any:  # noqa: N802 (Krita's name)
        dock = Dock(self.desk)
        dock.setObjectName(self.id())
        return dock
