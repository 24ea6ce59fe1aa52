"""The order in which waiting jobs are taken up: fair between clients, kind to warm models.

Theory of operation. Each client has a lane, first come first served. The lanes stand in a
rotation; the *fair order* is the first job of every lane in rotation, then the second of
every lane, and so on. A lane goes to the rotation's end when a job of it is taken.

Loading a model costs seconds, so a job whose model is warm may be taken before cold ones
that come earlier in the fair order. Each of those has then been *passed over* once more,
and nothing may be taken before a job that was passed over `MAX_PASSED_OVER` times. So a job
waits for a bounded number of others, however many warm ones keep coming.

With thousands of jobs the whole order is only gone through by who needs all of it: whoever asks
how many there are, how large, or where a job stands, is answered from figures and lanes.

Pure: no thread, no lock, no engine. Whoever calls it holds the ledger's lock, except for
`choose`, which works on a copy of the order so that the engine is asked outside of the lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile, zip_longest

from runai.jobs.job import Job

MAX_PASSED_OVER = 4


class FairQueue:
    """Jobs that wait, in lanes by client."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[int, list[Job]] = OrderedDict()
        self._count = 0
        self.picture_bytes = 0  # of the pictures that came with all of them

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Job]:
        """In the fair order; not to be changed meanwhile."""
        rounds = zip_longest(*self._lanes.values())
        return (job for round_ in rounds for job in round_ if job is not None)

    @property
    def clients(self) -> Iterator[int]:
        """The numbers of those who have a job here."""
        return iter(self._lanes)

    @property
    def firsts(self) -> Iterator[Job]:
        """Of each of them the first job, in rotation."""
        return (lane[0] for lane in self._lanes.values())

    def push(self, job: Job) -> None:
        self._lanes.setdefault(job.client, []).append(job)
        self._count += 1
        self.picture_bytes += job.picture_bytes

    def order(self) -> list[Job]:
        """The fair order."""
        return list(self)

    def position(self, job: Job) -> int:
        """How many jobs come before this one in the fair order."""
        own = self._lanes[job.client].index(job)
        before, others = 0, own + 1  # of a lane that stands before its own, one more
        for client, lane in self._lanes.items():
            if client == job.client:
                before, others = before + own, own
            else:
                before += min(len(lane), others)
        return before

    def take(self, job: Job) -> None:
        """Take out a job that is to run now; those before it in the order are passed over."""
        for other in takewhile(lambda other: other is not job, self):
            other.passed_over += 1
        self.remove(job)
        if job.client in self._lanes:
            self._lanes.move_to_end(job.client)

    def remove(self, job: Job) -> None:
        """Take out a job that nobody wants any more."""
        lane = self._lanes[job.client]
        lane.remove(job)
        if not lane:
            del self._lanes[job.client]
        self._count -= 1
        self.picture_bytes -= job.picture_bytes


def choose(order: Sequence[Job], is_warm: Callable[[Job], bool]) -> Job:
    """The job to take next: the first warm one that may overtake, else the first."""
    for job in order:
        if job.passed_over >= MAX_PASSED_OVER or is_warm(job):
            return job
    return order[0]
