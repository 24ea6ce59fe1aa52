"""What is said on stderr when there is no log (any more), whatever has become of stderr.

It may be closed, a pipe that nobody reads, which holds up whoever writes to it once it is full,
or one that nobody has open, which breaks; or a terminal that is held up.
"""

from __future__ import annotations

import os
import select
import sys

from runai.cli.log_output import Output, opened

PATIENCE_S = 1.0


def last_word(line: str) -> None:
    """A line on stderr, if anybody takes it: a program that ends waits for no reader."""
    if sys.stderr is None or not _takes_lines():
        return
    if sys.stderr.isatty():
        _print_on_terminal(line)
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        # what is in the buffer would be tried again at the exit, and spoil the exit code
        # (https://docs.python.org/3/library/signal.html#note-on-sigpipe)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)


def _print_on_terminal(line: str) -> None:
    output = Output(opened(sys.stderr.fileno()))
    output.write(f"{line}\n")
    output.close()


def _takes_lines() -> bool:
    asked = select.poll()
    try:
        asked.register(sys.stderr, select.POLLOUT)
    except (OSError, ValueError):  # no file, but something in memory
        return True
    return bool(asked.poll(PATIENCE_S * 1000))
