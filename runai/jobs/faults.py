"""Whatever goes wrong while something is drawn, as an error that its client can be told."""

from __future__ import annotations

from runai.errors import OutOfMemory, RunAIError

MOST_SAID = 300


def as_error(error: BaseException) -> RunAIError:
    """Any exception as one of ours."""
    if isinstance(error, RunAIError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory("The server has not enough memory for this.")
    return RunAIError(f"{type(error).__name__}: {_text_of(error)}")


def _text_of(error: BaseException) -> str:
    """What an error of a library says, as much as a message should hold."""
    try:
        return str(error)[:MOST_SAID]
    except Exception:  # noqa: BLE001 (somebody's `__str__`)
        return "it cannot say what"
