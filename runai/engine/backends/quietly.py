"""OpenVINO's Python package, kept from telling anybody: import it from here, and nowhere else.

`import openvino` itself writes into the home folder and goes to the network, to report that it
was imported. What does that is a package of its own, without which it imports as well.
"""

from __future__ import annotations

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # cannot be imported now

import openvino as ov  # noqa: E402
import openvino.opset15 as ops  # noqa: E402

__all__ = ["ops", "ov"]
