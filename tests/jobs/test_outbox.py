"""What a client is owed stays in order, bounded, and complete where it matters."""

from __future__ import annotations

import threading

from runai.jobs.job import Job
from runai.jobs.outbox import Outbox
from runai.schema.events import (
    Accepted,
    Canceled,
    Event,
    Loading,
    Models,
    Preview,
    Progress,
)
from runai.schema.requests import TextToImage


def outbox_with(*ids: str) -> tuple[Outbox, list[Job]]:
    lock = threading.Lock()
    lock.acquire()  # the outbox is only ever used with it held
    outbox = Outbox(1, lock)
    jobs = [Job(str(n), 1, TextToImage(id=id_), tag=f"tag {id_}") for n, id_ in enumerate(ids)]
    outbox.open = {job.request.id: job for job in jobs}
    return outbox, jobs


def progress(step: int) -> Progress:
    return Progress(id="a", step=step, total=9)


def preview(step: int, index: int = 0) -> Preview:
    return Preview(id="a", index=index, step=step, png=b"png")


def pop_all(outbox: Outbox) -> list[Event]:
    events: list[Event] = []
    while len(outbox):
        events.append(outbox.pop().event)
    return events


def test_events_and_posted_answers_leave_in_the_order_they_came() -> None:
    outbox, (job,) = outbox_with("a")
    came: list[Event] = [
        Accepted(id="a", position=0),
        Models(models=[]),
        Loading(id="a", model="m"),
        Models(models=[]),
    ]
    for event in came:
        if isinstance(event, Models):
            outbox.post(event, None)
        else:
            outbox.put(job, event)
    assert pop_all(outbox) == came


def test_every_event_carries_the_tag_of_its_request() -> None:
    outbox, jobs = outbox_with("a", "b")
    for job in jobs:
        outbox.put(job, Accepted(id=job.request.id, position=0))
    outbox.post(Models(models=[]), "posted")
    assert [outbox.pop().tag for _ in range(3)] == ["tag a", "tag b", "posted"]


def test_an_unread_progress_gives_way_to_a_newer_one() -> None:
    outbox, (job,) = outbox_with("a")
    for step in range(1, 6):
        outbox.put(job, progress(step))
    assert pop_all(outbox) == [progress(5)]


def test_previews_give_way_picture_by_picture() -> None:
    outbox, (job,) = outbox_with("a")
    for step in (1, 2):
        for index in (0, 1):
            outbox.put(job, preview(step, index))
    assert pop_all(outbox) == [preview(2, 0), preview(2, 1)]


def test_one_jobs_progress_does_not_replace_anothers() -> None:
    outbox, (one, other) = outbox_with("a", "b")
    outbox.put(one, progress(1))
    outbox.put(other, Progress(id="b", step=1, total=9))
    outbox.put(one, progress(2))
    assert pop_all(outbox) == [progress(2), Progress(id="b", step=1, total=9)]


def test_the_last_event_drops_unread_progress_and_previews_only() -> None:
    outbox, (job,) = outbox_with("a")
    accepted, loading, end = (
        Accepted(id="a", position=0),
        Loading(id="a", model="m"),
        Canceled(id="a"),
    )
    for event in (accepted, loading, progress(1), preview(1), end):
        outbox.put(job, event)
    assert pop_all(outbox) == [accepted, loading, end]


def test_a_job_is_open_until_its_last_event_is_taken() -> None:
    outbox, (job,) = outbox_with("a")
    outbox.put(job, Accepted(id="a", position=0))
    outbox.put(job, Canceled(id="a"))
    outbox.pop()
    assert outbox.open == {"a": job}
    outbox.pop()
    assert outbox.open == {}


def test_it_is_done_when_finishing_and_everything_is_taken() -> None:
    outbox, (job,) = outbox_with("a")
    outbox.finish()
    assert not outbox.is_done
    outbox.put(job, Canceled(id="a"))
    assert not outbox.is_done
    outbox.pop()
    assert outbox.is_done


def test_a_closed_one_holds_nothing_and_takes_nothing_in() -> None:
    outbox, (job,) = outbox_with("a")
    outbox.put(job, progress(1))
    outbox.close()
    outbox.put(job, Canceled(id="a"))
    outbox.post(Models(models=[]), None)
    assert outbox.is_done
    assert pop_all(outbox) == []
