"""What the dock shows of the board: progress, preview, what went wrong, the server's state."""

from __future__ import annotations

from typing import Any

from PyQt5.QtCore import QRect, QSize, Qt, pyqtSignal
from PyQt5.QtGui import QImage, QPainter
from PyQt5.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from .board import Board, Job, Trouble

MOST_PREVIEW = 240  # pixels a side
DOTS = {"gone": "#c0504d", "starting": "#d9a13b", "loading": "#d9a13b", "ready": "#5fa04e"}
FRAME = (
    "#runai_trouble {{ background: rgba({colour}, 60); border-left: 3px solid rgb({colour});"
    " border-radius: 3px; }}"
)


class Progress(QProgressBar):
    """Of the request that is being drawn; busy before its first step."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("runai_progress")
        self.setAlignment(Qt.AlignCenter)

    def show_job(self, job: Job | None, others: int) -> None:
        self.setVisible(job is not None)
        if job is not None:
            self.setRange(0, job.total)
            self.setValue(job.step)
            self.setFormat(_words(job, others))


def _words(job: Job, others: int) -> str:
    words = f"Step {job.step} of {job.total}" if job.total else job.doing
    if job.total and job.seconds_left:
        words += f", {job.seconds_left:.0f} s left"
    return words + (f" (and {others} more)" if others else "")


class Preview(QWidget):
    """The picture as far as it is, no larger than the dock is wide."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("runai_preview")
        policy = QSizePolicy(QSizePolicy.Expanding, QSizePolicy.Preferred)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self._png: bytes | None = None
        self._image = QImage()
        self.hide()

    def show_picture(self, png: bytes | None) -> None:
        if png is self._png:
            return
        self._png = png
        self._image = QImage.fromData(png) if png is not None else QImage()
        self.setVisible(not self._image.isNull())
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        return QSize(MOST_PREVIEW, self.heightForWidth(MOST_PREVIEW))

    def heightForWidth(self, width: int) -> int:  # noqa: N802 (Qt's name)
        return self._fitted(width).height() if not self._image.isNull() else 0

    def _fitted(self, width: int) -> QSize:
        most = QSize(min(width, MOST_PREVIEW), MOST_PREVIEW)
        return self._image.size().scaled(most, Qt.KeepAspectRatio)

    def paintEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        if self._image.isNull():
            return
        where = QRect(0, 0, 0, 0)
        where.setSize(self._image.size().scaled(self.size(), Qt.KeepAspectRatio))
        where.moveCenter(self.rect().center())
        painter = QPainter(self)
        painter.setRenderHint(QPainter.SmoothPixmapTransform)
        painter.drawImage(where, self._image)


class Complaint(QFrame):
    """What went wrong and what to do about it, or what was done otherwise, until it is put away."""

    put_away = pyqtSignal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("runai_trouble")
        self._text = QLabel()
        self._text.setObjectName("runai_trouble_text")
        self._text.setWordWrap(True)
        self._text.setTextFormat(Qt.PlainText)
        self._text.setTextInteractionFlags(Qt.TextSelectableByMouse)
        away = QToolButton()
        away.setText("×")
        away.setAutoRaise(True)
        away.clicked.connect(self.put_away)
        row = QHBoxLayout(self)
        row.setContentsMargins(8, 4, 4, 4)
        row.addWidget(self._text, 1)
        row.addWidget(away, 0, Qt.AlignTop)
        self.hide()

    def show_trouble(self, trouble: Trouble | None, notes: list[str]) -> None:
        said = [*trouble] if trouble is not None else notes
        colour = "192, 80, 77" if trouble is not None else "217, 161, 59"
        self.setStyleSheet(FRAME.format(colour=colour))
        self._text.setText("\n".join(line for line in said if line))
        self.setVisible(bool(said))


class ServerLine(QWidget):
    """One line at the bottom: a dot for the state, the state in words, a button for settings."""

    settings_wanted = pyqtSignal()

    def __init__(self) -> None:
        super().__init__()
        self._dot = QLabel("●")
        self._says = QLabel()
        self._says.setObjectName("runai_server")
        self._says.setWordWrap(True)
        button = QToolButton()
        button.setObjectName("runai_settings")
        button.setText("Server…")
        button.setAutoRaise(True)
        button.setToolTip("Where the server is, and how it is started")
        button.clicked.connect(self.settings_wanted)
        row = QHBoxLayout(self)
        row.setContentsMargins(8, 0, 4, 4)
        row.addWidget(self._dot)
        row.addWidget(self._says, 1)
        row.addWidget(button)

    def show_server(self, state: str, says: str) -> None:
        self._dot.setStyleSheet(f"color: {DOTS[state]}")
        self._says.setText(says)


class Showing(QWidget):
    """Progress, preview and trouble, one below the other."""

    put_away = pyqtSignal()

    def __init__(self) -> None:
        super().__init__()
        self._progress, self._preview, self._complaint = Progress(), Preview(), Complaint()
        self._complaint.put_away.connect(self.put_away)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self._complaint, self._progress, self._preview):
            layout.addWidget(widget)

    def show_board(self, board: Board) -> None:
        self._progress.show_job(board.current(), len(board.jobs) - 1)
        self._preview.show_picture(board.preview)
        self._complaint.show_trouble(board.trouble, board.notes)
