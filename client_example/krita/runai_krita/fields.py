"""The fields of the dock: from widgets to a `Wish`."""

from __future__ import annotations

from typing import Any

from PyQt5.QtCore import QRegularExpression, Qt, pyqtSignal
from PyQt5.QtGui import QRegularExpressionValidator
from PyQt5.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from .asking import EVERYTHING, Wish

LEAST_STRENGTH = 5
STRENGTH_STEP = 5
PROMPT_LINES = 4
DEFAULT_MODEL = "The server's default"
MODELS_OWN = "model's own"
MOST_STEPS = 1000
MOST_GUIDANCE = 100.0


class Fields(QWidget):
    """All of them, in two parts: what changes from picture to picture, and the rest folded away."""

    changed = pyqtSignal()

    def __init__(self) -> None:
        super().__init__()
        self._models: list[str] = []
        self._last_seed: int | None = None
        self._make_words()
        self._make_strength()
        self._make_rest()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._prompt)
        layout.addWidget(self._negative)
        layout.addLayout(self._strength_row())
        layout.addWidget(self._only_selection)
        layout.addWidget(self._unfold)
        layout.addWidget(self._rest)

    def wish(self) -> Wish:
        seed = self._seed.text()
        return Wish(
            prompt=self._prompt.toPlainText().strip(),
            negative_prompt=self._negative.text().strip(),
            model=self._model.currentData() or "",
            strength=self._strength.value(),
            only_selection=self._only_selection.isChecked(),
            steps=self._steps.value(),
            guidance=self._guidance.value(),
            seed=int(seed) if seed else None,
        )

    def offer(self, models: list[str], last_seed: int | None) -> None:
        """What can be chosen; the choice stays as long as it is offered."""
        self._last_seed = last_seed
        self._again.setEnabled(last_seed is not None)
        if models == self._models:
            return
        chosen = self._model.currentData()
        self._models = list(models)
        self._model.clear()
        self._model.addItem(DEFAULT_MODEL, "")
        for name in models:
            self._model.addItem(name, name)
        self._model.setCurrentIndex(max(0, self._model.findData(chosen)))

    # --- the widgets -------------------------------------------------------------------

    def _make_words(self) -> None:
        self._prompt = QPlainTextEdit()
        self._prompt.setObjectName("runai_prompt")
        self._prompt.setPlaceholderText("What is to be drawn?")
        self._prompt.setTabChangesFocus(True)
        line = self._prompt.fontMetrics().lineSpacing()
        self._prompt.setFixedHeight(line * PROMPT_LINES + 2 * line // 2)
        self._negative = _named(QLineEdit(), "runai_negative_prompt")
        self._negative.setPlaceholderText("What should not be in it?")

    def _make_strength(self) -> None:
        self._strength = _named(QSlider(Qt.Horizontal), "runai_strength")
        self._strength.setRange(LEAST_STRENGTH, EVERYTHING)
        self._strength.setSingleStep(STRENGTH_STEP)
        self._strength.setPageStep(STRENGTH_STEP)
        self._strength.setValue(EVERYTHING)
        self._strength.setToolTip(
            "How much of the picture that is there may change.\n"
            "100 %: nothing of it is kept, it is drawn from the words alone."
        )
        self._percent = QLabel()
        self._percent.setMinimumWidth(self._percent.fontMetrics().horizontalAdvance("100 %"))
        self._percent.setAlignment(Qt.AlignRight | Qt.AlignVCenter)
        self._only_selection = _named(QCheckBox("Repaint only the selection"), "runai_only")
        self._only_selection.setToolTip(
            "The model sees what is around the selection, and what it draws fits in there."
        )
        self._strength.valueChanged.connect(self._show_percent)
        self._only_selection.toggled.connect(self.changed)
        self._show_percent(EVERYTHING)

    def _strength_row(self) -> Any:
        row = QHBoxLayout()
        row.addWidget(QLabel("Strength"))
        row.addWidget(self._strength, 1)
        row.addWidget(self._percent)
        return row

    def _show_percent(self, value: int) -> None:
        self._percent.setText(f"{value} %")
        self.changed.emit()

    def _make_rest(self) -> None:
        self._unfold = _named(QToolButton(), "runai_more")
        self._unfold.setText("Model, steps, seed")
        self._unfold.setCheckable(True)
        self._unfold.setAutoRaise(True)
        self._unfold.setToolButtonStyle(Qt.ToolButtonTextBesideIcon)
        self._unfold.setArrowType(Qt.RightArrow)
        self._unfold.toggled.connect(self._fold)
        self._make_model()
        self._make_numbers()
        self._make_seed()
        self._rest = QWidget()
        form = QFormLayout(self._rest)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Model", self._model)
        form.addRow("Steps", self._steps)
        form.addRow("Guidance", self._guidance)
        form.addRow("Seed", self._seed_row)
        self._rest.hide()

    def _fold(self, is_open: bool) -> None:
        self._rest.setVisible(is_open)
        self._unfold.setArrowType(Qt.DownArrow if is_open else Qt.RightArrow)

    def _make_model(self) -> None:
        self._model = _named(QComboBox(), "runai_model")
        self._model.addItem(DEFAULT_MODEL, "")
        self._model.setSizePolicy(QSizePolicy.Ignored, QSizePolicy.Fixed)

    def _make_numbers(self) -> None:
        self._steps = _named(QSpinBox(), "runai_steps")
        self._steps.setRange(0, MOST_STEPS)
        self._guidance = _named(QDoubleSpinBox(), "runai_guidance")
        self._guidance.setRange(0.0, MOST_GUIDANCE)
        self._guidance.setSingleStep(0.5)
        self._guidance.setDecimals(1)
        for box in (self._steps, self._guidance):
            box.setSpecialValueText(MODELS_OWN)

    def _make_seed(self) -> None:
        self._seed = _named(QLineEdit(), "runai_seed")
        self._seed.setPlaceholderText("random")
        digits = QRegularExpression(r"\d{0,18}")
        self._seed.setValidator(QRegularExpressionValidator(digits, self._seed))
        self._seed.setClearButtonEnabled(True)
        self._again = QToolButton()
        self._again.setText("Last")
        self._again.setToolTip("The seed of the last picture, to vary it.")
        self._again.setEnabled(False)
        self._again.clicked.connect(lambda: self._seed.setText(str(self._last_seed)))
        self._seed_row = QWidget()
        row = QHBoxLayout(self._seed_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._seed, 1)
        row.addWidget(self._again)


def _named(widget: Any, name: str) -> Any:
    widget.setObjectName(name)
    return widget
