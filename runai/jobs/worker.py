"""The one thread that talks to the engine.

Theory of operation. Each turn of the loop: wait until there is something to do (on a
condition; idling costs nothing: an engine that wants to let go of something later says when
it is to be called for that); clear out what was canceled; take jobs up while the engine has
room, and past that who has nothing in it beside others who have much; do one step; write what
came of it into the ledger, or have it made (`finisher`). In a turn nobody's picture waits for
more than one job of each other client to be taken up (where memory is short, for all there is room
for), nor for more than one that failed to start or that had to load its model.

Whose fault is what: an exception in `admit` is the failure of the job that was taken up. One
in `step` could be anybody's, so every job in the engine fails and is dropped. One in `preload` or
`rest` is nobody's. The loop lives on after these. An engine that cannot be made, that fails at a
mere question (`has_room`) or at forgetting a job, or whose device is lost (`DeviceLost`, from
anywhere), is broken for good: everything fails with its error and `on_fatal` is told. Whoever
makes it may raise ServerStopping once nobody wants it any more: that is no fault.

An exception is any BaseException here: panics of libraries in Rust, of which tokenizers is one,
are no `Exception` (pyo3's PanicException), and SystemExit ends no more than a thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Container, Sequence

from runai.errors import DeviceLost, RunAIError, ServerStopping
from runai.jobs.engine import Engine
from runai.jobs.faults import as_error
from runai.jobs.finisher import Finisher
from runai.jobs.job import Job
from runai.jobs.ledger import Ledger
from runai.schema.events import JobEvent
from runai.schema.late import Late

log = logging.getLogger(__name__)


class Worker:
    """Owns the engine and the thread; `start` once, then `join` after the ledger's `quit`."""

    def __init__(
        self,
        ledger: Ledger,
        make_engine: Callable[[], Engine],
        on_fatal: Callable[[RunAIError], None],
        preload: str | None = None,
    ) -> None:
        self._ledger = ledger
        self._make_engine = make_engine
        self._on_fatal = on_fatal
        self._preloaded = preload
        self._came = False  # the engine
        self.finisher = Finisher(ledger)
        self._thread = threading.Thread(target=self._run, name="runai-worker")

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread to end, if it was ever started."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        fatal: RunAIError | None = None
        try:
            with self.finisher:
                self._work()
        except ServerStopping:  # who was to make the engine has given up
            log.debug("The engine is not wanted any more.")
        except BaseException as error:  # any fault of the engine's: its clients must hear of it
            log.exception("The engine is broken.")
            fatal = as_error(error)
        finally:
            self._ledger.engine_went(fatal)
        if fatal is not None:
            self._on_fatal(self._for_everybody(fatal))

    def _for_everybody(self, fatal: RunAIError) -> RunAIError:
        """Whoever is told may print it: once requests were drawn, a surprise may quote one."""
        if self._came and type(fatal) is RunAIError:
            return RunAIError("The engine broke; the log says where.")
        return fatal

    def _work(self) -> None:
        engine = self._make_engine()
        self._came = True
        try:
            self._ledger.engine_came(engine)
            self._preload(engine)
            while self._wait(engine):
                self.turn(engine)
        except BaseException:
            self._close_broken(engine)
            raise
        engine.close()

    def _preload(self, engine: Engine) -> None:
        """Load what is to be there before anybody asks; where that fails, who asks is told why."""
        if self._preloaded is None:
            return
        self._ledger.set_loading(self._preloaded or "the default model")
        try:
            engine.preload(self._preloaded)
        except DeviceLost:
            raise
        except RunAIError as error:
            log.error("%s cannot be preloaded: %s", self._preloaded or "The default model", error)
        except BaseException:  # (as in `admit`: the loop lives on)
            log.exception("Preloading failed.")
        finally:
            self._ledger.set_loaded()
        self._ledger.timed(engine.take_timings())

    def _close_broken(self, engine: Engine) -> None:
        try:
            engine.close()
        except BaseException:  # what broke it is what its clients must hear of
            log.debug("The broken engine could not be closed.", exc_info=True)

    def _wait(self, engine: Engine) -> bool:
        """Until there is something to do; False when the thread is to end."""
        while not self._ledger.wait_for_work(0):
            self._ledger.wait_for_work(self._rest(engine))
        return not self._ledger.quitting

    def _rest(self, engine: Engine) -> float | None:
        try:
            return engine.rest()
        except DeviceLost:
            raise
        except BaseException:  # (it holds more than it should, and can draw all the same)
            log.exception("What idles could not be let go of.")
            return None

    def turn(self, engine: Engine) -> None:
        """What is done once there is work: take jobs up, do one step, tell what came of it."""
        self._admit_while_room(engine)
        self._step(engine)

    def _admit_while_room(self, engine: Engine) -> None:
        served: set[int] = set()  # each once, or others' steps would wait for a flood to begin
        while (job := self._next(engine, served)) is not None and self._admit(engine, job):
            if not _moves_networks(engine):  # or each would have them moved to and fro
                served.add(job.client)

    def _next(self, engine: Engine, served: Container[int]) -> Job | None:
        self._drop_canceled(engine)
        # an idle engine is always offered a job: nothing else could make room
        is_full = engine.is_busy() and not engine.has_room()
        return self._ledger.take_next(
            lambda job: _is_warm(engine, job), newcomers_only=is_full, served=served
        )

    def _drop_canceled(self, engine: Engine) -> None:
        for key in self._ledger.take_dropped():
            engine.drop(key)

    def _admit(self, engine: Engine, job: Job) -> bool:
        """Whether it went well and fast, so that another may be taken up before a step."""
        try:
            cold = not engine.is_warm(job.request)
            if cold:
                self._ledger.set_loading(engine.model_of(job.request), job)
            engine.admit(job.key, job.request, job.client)
        except DeviceLost:
            raise
        except BaseException as error:  # noqa: BLE001 (the job failed; the loop lives on)
            self._fail(engine, [job], error)
            return False
        finally:
            self._ledger.set_loaded()
        self._ledger.timed(engine.take_timings())
        return not cold

    def _step(self, engine: Engine) -> None:
        self._drop_canceled(engine)
        try:
            outcomes = engine.step()
            self._ledger.timed(engine.take_timings())
            self._tell(outcomes)
        except DeviceLost:
            raise
        except BaseException as error:  # noqa: BLE001 (whose is unknown: all of them failed)
            self._fail(engine, self._ledger.drawing_jobs(), error)
        if not engine.is_busy():
            lost = RunAIError("The engine ended without an answer.")
            self._ledger.fail(self._ledger.drawing_jobs(), lost)

    def _tell(self, outcomes: Sequence[tuple[str, JobEvent | Late]]) -> None:
        late = [(key, event) for key, event in outcomes if isinstance(event, Late)]
        self._ledger.deliver([(key, e) for key, e in outcomes if not isinstance(e, Late)])
        for key, event in late:
            self._ledger.set_drawn(key)
            self.finisher.finish(key, event)

    def _fail(self, engine: Engine, jobs: list[Job], error: BaseException) -> None:
        if not isinstance(error, RunAIError):
            log.error("Drawing failed.", exc_info=error)
        self._ledger.timed(engine.take_timings())
        self._ledger.fail(jobs, as_error(error))
        for job in jobs:
            engine.drop(job.key)


def _moves_networks(engine: Engine) -> bool:
    """Whether networks come to the device one after another, to be called."""
    memory = engine.newest_memory()
    return memory is not None and memory.plan in ("offload", "sequential")


def _is_warm(engine: Engine, job: Job) -> bool:
    try:
        return engine.is_warm(job.request)
    except BaseException:  # noqa: BLE001 (the worker loop's: `admit` will say what is wrong)
        return True
