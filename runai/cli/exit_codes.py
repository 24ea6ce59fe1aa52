"""The exit codes of all commands, in one table; `document` writes it into docs/settings.md."""

from __future__ import annotations

from enum import IntEnum

from runai.errors import DeviceLost, InvalidSetting, RequestError, RunAIError

SIGNAL_BASE = 128


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    NOBODY_CAME = 3
    DEVICE_LOST = 4
    INTERRUPTED = SIGNAL_BASE + 2
    TERMINATED = SIGNAL_BASE + 15


MEANINGS = {
    ExitCode.OK: "The last client has left, or the server was told to stop and nothing was lost; "
    "for the other commands: done.",
    ExitCode.FAILED: "It could not start (port busy, no torch, …), the request failed, or "
    "`doctor` found a problem.",
    ExitCode.USAGE: "A flag, variable, file setting or request parameter is wrong.",
    ExitCode.NOBODY_CAME: "No client came (`--timeout`).",
    ExitCode.DEVICE_LOST: "The device failed for good; start the server again.",
    ExitCode.INTERRUPTED: "Stopped by Ctrl-C (SIGINT), and work was canceled.",
    ExitCode.TERMINATED: "Stopped by SIGTERM, and work was canceled.",
}


_ENDS = {
    InvalidSetting: ExitCode.USAGE,
    RequestError: ExitCode.USAGE,
    DeviceLost: ExitCode.DEVICE_LOST,
}


def code_of(error: RunAIError) -> ExitCode:
    """How a command ends that met this error."""
    return next((code for kind, code in _ENDS.items() if isinstance(error, kind)), ExitCode.FAILED)
