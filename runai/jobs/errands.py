"""Work for clients that is no drawing: a child process each, one at a time.

Theory of operation. Converting a model reads and writes gigabytes; in this process it would
hold up drawing. So it is done by the same program as a child, and a thread starts it, waits for
it and answers. `stop` interrupts the child, which then removes what it had begun to write, and
joins the thread. The lock guards whether an errand is under way, its child and `stop`'s word:
whichever of `stop` and the thread comes second sees the other's and interrupts the child.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence

from runai.errors import (
    ModelNotFound,
    NotOffered,
    QueueFull,
    RunAIError,
    ServerStopping,
    all_errors,
)
from runai.schema.events import Converted, ErrorBody, Event, Failed
from runai.schema.requests import Convert

SECRETS = ("RUNAI_TOKEN",)  # what no child needs to know
STOP_S = 5.0  # for a child to tidy up in
Words = Callable[[Convert], Sequence[str]]
Answer = Callable[[Event], None]
# how the program's commands end that failed: "runai: what happened and what to do [code]"
_ERROR = re.compile(r"runai: (.*) \[(\w+)\]")


class Errands:
    """`words`: the command that does it; None: clients may not ask for it."""

    def __init__(self, words: Words | None) -> None:
        self._words = words
        self._lock = threading.Lock()
        self._under_way = False
        self._child: subprocess.Popen[str] | None = None
        self._threads: list[threading.Thread] = []
        self._stopping = False

    def start(self, asked: Convert, answer: Answer) -> None:
        """Begin; `answer` is called once, on a thread of ours. Raises instead if it cannot be."""
        if self._words is None:
            raise NotOffered(
                "This server writes no files, and so converts none.",
                hint="Use `runai models convert`, or start the server with --allow-convert.",
                field="action",
            )
        if "\0" in asked.model:  # no command can be given it, and no file has it
            raise ModelNotFound("No model has a name with NUL in it.", field="model")
        thread = threading.Thread(
            target=self._run, args=(self._words(asked), asked, answer), name="runai-errand"
        )
        with self._lock:
            if self._stopping:
                raise ServerStopping("The server is stopping.")
            if self._under_way:
                raise QueueFull("Another model is being converted.", hint="Wait until it is done.")
            thread.start()
            self._under_way = True
            self._threads = [t for t in self._threads if t.is_alive()] + [thread]

    @property
    def is_busy(self) -> bool:
        with self._lock:
            return self._under_way

    def stop(self) -> None:
        """Interrupt what is under way and wait for it. Idempotent."""
        with self._lock:
            self._stopping = True
            child, threads = self._child, self._threads
        if child is not None:
            _interrupt(child)
        for thread in threads:
            thread.join()

    def _run(self, words: Sequence[str], asked: Convert, answer: Answer) -> None:
        try:
            said = self._converted(words)
        except RunAIError as error:
            done: Event = Failed(id=asked.id, error=ErrorBody.of(error))
        else:
            done = Converted(id=asked.id, path=said)
        with self._lock:
            self._under_way, self._child = False, None
        answer(done)

    def _converted(self, words: Sequence[str]) -> str:
        """What the child has written. Raises the error that it ended with."""
        child = _begin(words)
        with self._lock:
            self._child = child
            stopping = self._stopping
        if stopping:
            _interrupt(child)
        out, err = child.communicate()
        if child.returncode == 0:
            return out.strip()
        with self._lock:
            stopping = self._stopping
        raise ServerStopping("The server is stopping.") if stopping else _error_in(err)


def _begin(words: Sequence[str]) -> subprocess.Popen[str]:
    try:
        # in a group of its own: Ctrl-C is for the server, which then tells the child
        return subprocess.Popen(  # noqa: S603 (no shell; a client's name stands behind --)
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",  # names of files need not be text
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name not in SECRETS},
        )
    except OSError as error:
        raise RunAIError(
            f"The conversion cannot be started: {error.strerror or error}.",
            hint="Use `runai models convert` on the server's computer.",
        ) from error


def _interrupt(child: subprocess.Popen[str]) -> None:
    """As by Ctrl-C; killed if that does not help."""
    child.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(STOP_S)
        return
    child.kill()


def _error_in(said: str) -> RunAIError:
    """The error that the child ended with, as ours again."""
    found = list(_ERROR.finditer(said))
    if not found:
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        return RunAIError(f"The conversion failed: {last[:300]}.")
    message, code = found[-1].groups()
    return all_errors().get(code, RunAIError)(message, hint="See `runai models convert --help`.")
