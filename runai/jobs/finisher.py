"""The thread that makes last events which the engine left to be made, while it draws on.

Theory of operation. The worker marks a job as drawn and hands over what is to be made: it has
nothing to do with the job any more, which runs on until its last event is delivered from here. What
waits here is bounded, so an engine that draws faster than pictures can be written waits for them.
An exception is that job's failure. Leaving the context makes what is left, and ends the thread.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from types import TracebackType

from runai.jobs.faults import as_error
from runai.jobs.ledger import Ledger
from runai.schema.late import Late
from runai.schema.stages import Spent

MOST_WAITING = 16
log = logging.getLogger(__name__)


class Finisher:
    """A context that is entered once; `finish` within it, on the thread that entered it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: queue.Queue[tuple[str, Late] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="runai-finisher")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.put(None)
        self._thread.join()

    def finish(self, key: str, late: Late) -> None:
        """Make it, and deliver it to the job of this key, which is drawn. Waits for room."""
        self._waiting.put((key, late))

    def _run(self) -> None:
        while self.finish_next():
            pass

    def finish_next(self) -> bool:
        """Make what waits longest, or wait for it; False at the end. For this thread, and tests."""
        handed = self._waiting.get()
        if handed is not None:
            self._finish(*handed)
        return handed is not None

    @property
    def waiting(self) -> int:
        """How many events are still to be made, about."""
        return self._waiting.qsize()

    def _finish(self, key: str, late: Late) -> None:
        job = self._ledger.drawn_job(key)
        if job is None:  # canceled meanwhile
            return
        began = time.perf_counter()
        try:
            event = late.make()
        except BaseException as error:
            log.error("A picture could not be written.", exc_info=error)
            self._ledger.fail([job], as_error(error))
            return
        self._ledger.timed([Spent("png", time.perf_counter() - began, (key,))])
        self._ledger.deliver([(key, event)])
