"""Plays scenes inside Krita, one after the other, without ever blocking its GUI.

A scene is a generator: what it yields is a question (a function), and it goes on once the answer is
yes; one that waits too long fails, and so does one during which the plugin raised something. What
it returns are facts. Of every scene the report says what it returned or how it failed; the tests
outside read that. `RUNAI_DRIVER_OUT` is the folder for the report and for pictures.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from krita import Krita
from PyQt5.QtCore import QTimer
from PyQt5.QtWidgets import QApplication

OUT = Path(os.environ["RUNAI_DRIVER_OUT"])
TICK_MS = 20
PATIENCE_S = float(os.environ.get("RUNAI_DRIVER_PATIENCE_S", "60"))

Scene = Callable[[], Iterator[Callable[[], Any]]]


class Play:
    """See the module."""

    def __init__(self, scenes: list[Scene]) -> None:
        self._scenes = list(scenes)
        self._report: dict[str, dict[str, Any]] = {}
        self._timer = QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._tick)
        self._name = ""
        self._unhandled: list[str] = []

    def begin(self) -> None:
        if not self._timer.isActive():
            sys.excepthook = self._note  # Krita's own opens a dialog, and waits
            self._next()
            self._timer.start()

    def _note(self, *error: Any) -> None:
        self._unhandled.append("".join(traceback.format_exception(*error)))

    def _next(self) -> None:
        if not self._scenes:
            self._timer.stop()
            (OUT / "report.json").write_text(json.dumps(self._report, indent=1))
            quit_krita()
            return
        scene = self._scenes.pop(0)
        self._name, self._begun = scene.__name__, time.monotonic()
        self._steps = scene()
        self._question = lambda: True

    def _tick(self) -> None:
        try:
            if self._question():
                self._question = next(self._steps)
                self._deadline = time.monotonic() + PATIENCE_S
            elif time.monotonic() > self._deadline:
                raise TimeoutError(f"waited for line {self._steps.gi_frame.f_lineno} in vain")
        except StopIteration as end:
            self._write({"facts": end.value})
        except Exception:  # noqa: BLE001 (a scene's failure is the report's, not Krita's)
            QApplication.primaryScreen().grabWindow(0).save(str(OUT / f"failed-{self._name}.png"))
            error = traceback.format_exc()
            self._steps.close()
            self._write({"error": error})

    def _write(self, outcome: dict[str, Any]) -> None:
        if self._unhandled:
            outcome["error"] = outcome.get("error", "") + "".join(self._unhandled)
            self._unhandled.clear()
        outcome["seconds"] = round(time.monotonic() - self._begun, 2)
        self._report[self._name] = outcome
        self._next()


def quit_krita() -> None:
    for document in Krita.instance().documents():
        document.setModified(False)
        document.close()
    Krita.instance().activeWindow().qwindow().close()
