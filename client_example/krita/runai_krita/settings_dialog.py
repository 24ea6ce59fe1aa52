"""Asks where the server is and how it is started."""

from __future__ import annotations

from typing import Any

from PyQt5.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
)

from .settings import Settings

MOST_PORT = 65535
EXPLANATION = (
    "If no server runs on this computer, Krita starts this program: <b>runai</b> if it is "
    "installed for all programs, or the folder of the packaged server. Leave it empty to only "
    "connect."
)


class SettingsDialog(QDialog):
    """`settings()` is what was entered."""

    def __init__(self, settings: Settings, parent: Any) -> None:
        super().__init__(parent)
        self.setWindowTitle("RunAI server")
        self._host = QLineEdit(settings.host)
        self._port = QSpinBox()
        self._port.setRange(1, MOST_PORT)
        self._port.setValue(settings.port)
        self._command = QLineEdit(settings.command)
        self._token = QLineEdit(settings.token)
        for name in ("host", "port", "command", "token"):
            getattr(self, f"_{name}").setObjectName(f"runai_{name}")
        self._token.setEchoMode(QLineEdit.Password)
        self._token.setPlaceholderText("only if the server asks for one")
        form = QFormLayout(self)
        form.addRow("Host", self._host)
        form.addRow("Port", self._port)
        form.addRow("Token", self._token)
        form.addRow("Program", self._program_row())
        explanation = QLabel(EXPLANATION)
        explanation.setWordWrap(True)
        form.addRow(explanation)
        form.addRow(self._buttons())

    def settings(self) -> Settings:
        return Settings(
            host=self._host.text().strip() or Settings().host,
            port=self._port.value(),
            command=self._command.text().strip(),
            token=self._token.text().strip(),
        )

    def _program_row(self) -> Any:
        choose = QPushButton("Folder…")
        choose.clicked.connect(self._choose_folder)
        row = QHBoxLayout()
        row.addWidget(self._command, 1)
        row.addWidget(choose)
        return row

    def _choose_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "The folder of the packaged server")
        if folder:
            self._command.setText(folder)

    def _buttons(self) -> Any:
        buttons = QDialogButtonBox(QDialogButtonBox.Ok | QDialogButtonBox.Cancel)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        return buttons
