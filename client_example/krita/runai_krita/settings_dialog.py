"""Asks where the server is and how it is started."""

from __future__ import annotations

from typing import Any, Callable

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
        self._certificate = QLineEdit(settings.certificate)
        for name in ("host", "port", "command", "token", "certificate"):
            getattr(self, f"_{name}").setObjectName(f"runai_{name}")
        self._token.setEchoMode(QLineEdit.Password)
        self._token.setPlaceholderText("only if the server asks for one")
        self._certificate.setPlaceholderText("a copy of the server's, if it is on another computer")
        form = QFormLayout(self)
        form.addRow("Host", self._host)
        form.addRow("Port", self._port)
        form.addRow("Token", self._token)
        form.addRow("Certificate", self._row_of(self._certificate, "File…", self._choose_file))
        form.addRow("Program", self._row_of(self._command, "Folder…", self._choose_folder))
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
            certificate=self._certificate.text().strip(),
        )

    def _row_of(self, line: QLineEdit, label: str, choose: Callable[[], None]) -> Any:
        """A line to write on, and a button to choose what stands there."""
        button = QPushButton(label)
        button.clicked.connect(choose)
        row = QHBoxLayout()
        row.addWidget(line, 1)
        row.addWidget(button)
        return row

    def _choose_file(self) -> None:
        file, _ = QFileDialog.getOpenFileName(self, "The server's certificate", "", "PEM (*.pem)")
        if file:
            self._certificate.setText(file)

    def _choose_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "The folder of the packaged server")
        if folder:
            self._command.setText(folder)

    def _buttons(self) -> Any:
        buttons = QDialogButtonBox(QDialogButtonBox.Ok | QDialogButtonBox.Cancel)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        return buttons
