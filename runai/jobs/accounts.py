"""What is kept of jobs besides their state: counts, timings, and notes for the log.

Every method is called with the ledger's lock held, by the ledger alone, but for `publish`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from runai.errors import RunAIError
from runai.jobs.counters import Counters
from runai.jobs.job import Job
from runai.jobs.journal import SECONDS, Fields, Journal, describe
from runai.jobs.timings import Timings
from runai.schema.events import Completed, Failed, JobEvent, Progress
from runai.schema.requests import GenerationRequest
from runai.schema.stages import Spent, Stage


class Accounts:
    """`log_prompts`: the log is to show prompts."""

    def __init__(self, *, log_prompts: bool) -> None:
        self.counters = Counters()
        self.timings = Timings()
        self._journal = Journal()
        self._log_prompts = log_prompts

    def publish(self) -> None:
        """Tell the log what was noted. No lock may be held."""
        self._journal.publish()

    def accepted(self, job: Job, position: int) -> None:
        self.counters.count("accepted")
        said = Fields(job=job.key, client=job.client, position=position)
        self._journal.note(logging.INFO, "Accepted.", said | self._describe(job.request))

    def refused(self, client: int, error: RunAIError, request: GenerationRequest | None) -> None:
        """Of the error nothing but its code: its text may quote what the client wrote."""
        self.counters.count_error("refused", error.code)
        said = Fields(client=client, code=error.code)
        more = Fields() if request is None else self._describe(request)
        self._journal.note(logging.INFO, "Refused.", said | more)

    def started(self, job: Job) -> None:
        waited_s = time.monotonic() - job.accepted_at
        self.timings.add("queue", waited_s)
        _spend(job, "queue", waited_s)
        self._journal.note(logging.INFO, "Started.", _about(job))

    def timed(self, all_spent: Sequence[Spent], running: Mapping[str, Job]) -> None:
        for spent in all_spent:
            self.timings.add(spent.stage, spent.seconds)
            for key in spent.keys:
                if key in running:
                    _spend(running[key], spent.stage, spent.seconds)

    def told(self, job: Job, event: JobEvent) -> None:
        """An event that is not the job's last."""
        if isinstance(event, Progress):
            self.counters.count("steps", event.step - job.steps)
            job.steps = event.step

    def ended(self, job: Job, event: JobEvent) -> None:
        said = _about(job)
        said["total_s"] = time.monotonic() - job.accepted_at
        for stage, seconds in job.spent_s.items():
            said[SECONDS[stage]] = seconds  # type: ignore[literal-required]
        if isinstance(event, Completed):
            self._finished(event, said)
        elif isinstance(event, Failed):
            self.counters.count_error("failed", event.error.code)
            said["code"] = event.error.code
            self._journal.note(logging.WARNING, "Failed.", said)
        else:
            self.counters.count("canceled")
            self._journal.note(logging.INFO, "Canceled.", said)

    def _finished(self, event: Completed, said: Fields) -> None:
        self.counters.count("completed")
        self.counters.count("pictures", len(event.images))
        used = event.parameters
        said["model"], said["pictures"] = used.model, len(event.images)
        said["width"], said["height"] = used.width, used.height
        said["steps"], said["sampler"] = used.num_inference_steps, used.sampler
        self._journal.note(logging.INFO, "Finished.", said)

    def _describe(self, request: GenerationRequest) -> Fields:
        return describe(request, prompts=self._log_prompts)


def _about(job: Job) -> Fields:
    return Fields(job=job.key, client=job.client, request=job.request.id)


def _spend(job: Job, stage: Stage, seconds: float) -> None:
    job.spent_s[stage] = job.spent_s.get(stage, 0.0) + seconds
