"""The queue is fair between clients, kind to warm models, and starves nobody."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import given, settings

from runai.jobs.job import Job
from runai.jobs.queue import MAX_PASSED_OVER, FairQueue, choose
from runai.schema.requests import ImageToImage, TextToImage


def job(client: int, name: str, model: str = "cold") -> Job:
    return Job(name, client, TextToImage(id=name, model=model))


def filled(*jobs: Job) -> FairQueue:
    queue = FairQueue()
    for each in jobs:
        queue.push(each)
    return queue


def names(jobs: list[Job]) -> str:
    return " ".join(each.key for each in jobs)


def take_all(queue: FairQueue, is_warm: Callable[[Job], bool] = lambda _: False) -> str:
    taken = []
    while len(queue):
        taken.append(choose(queue.order(), is_warm))
        queue.take(taken[-1])
    return names(taken)


def warm(each: Job) -> bool:
    return each.request.model == "warm"


def test_one_client_is_served_first_come_first_served() -> None:
    assert take_all(filled(job(1, "a1"), job(1, "a2"), job(1, "a3"))) == "a1 a2 a3"


def test_clients_take_turns_however_much_one_of_them_asks() -> None:
    queue = filled(*(job(1, f"a{i}") for i in range(4)), job(2, "b0"), job(3, "c0"), job(2, "b1"))
    assert take_all(queue) == "a0 b0 c0 a1 b1 a2 a3"


def test_the_turn_stays_when_a_newcomer_asks_between_two_turns() -> None:
    queue = filled(job(1, "a0"), job(1, "a1"), job(2, "b0"))
    queue.take(queue.order()[0])
    queue.push(job(3, "c0"))
    assert names(queue.order()) == "b0 a1 c0"


def test_the_position_counts_the_jobs_that_are_to_come_before() -> None:
    jobs = [job(1, "a0"), job(1, "a1"), job(2, "b0"), job(2, "b1"), job(3, "c0")]
    queue = filled(*jobs)
    assert {each.key: queue.position(each) for each in jobs} == {
        "a0": 0,
        "b0": 1,
        "c0": 2,
        "a1": 3,
        "b1": 4,
    }


def test_a_removed_job_leaves_the_others_in_their_order() -> None:
    gone = job(2, "b0")
    queue = filled(job(1, "a0"), gone, job(3, "c0"))
    queue.remove(gone)
    assert names(queue.order()) == "a0 c0"
    assert len(queue) == 2


def test_a_warm_job_overtakes_cold_ones_of_its_own_and_of_other_clients() -> None:
    queue = filled(job(1, "a0"), job(2, "b0"), job(2, "b1", "warm"))
    assert take_all(queue, warm) == "b1 a0 b0"


def test_a_cold_job_is_taken_after_it_was_passed_over_the_allowed_number_of_times() -> None:
    queue = filled(job(1, "cold"))
    for number in range(MAX_PASSED_OVER + 3):
        queue.push(job(2, f"w{number}", "warm"))
    before = take_all(queue, warm).split().index("cold")
    assert before == MAX_PASSED_OVER


def test_a_starved_job_stops_those_before_it_from_being_overtaken_too() -> None:
    starved, first = job(2, "b0"), job(1, "a0")
    starved.passed_over = MAX_PASSED_OVER
    order = filled(first, starved, job(3, "c0", "warm")).order()
    assert choose(order, warm) is starved


Arrival = tuple[int, bool]
arrivals = st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=40)


@settings(max_examples=150, deadline=None)
@given(arrivals, st.randoms(use_true_random=False))
def test_nobody_is_passed_over_more_often_than_allowed(arrivals_: list[Arrival], random) -> None:  # type: ignore[no-untyped-def]
    queue, coming, taken = FairQueue(), list(arrivals_), []
    came: list[Job] = []
    while coming or len(queue):
        if coming and (not len(queue) or random.random() < 0.6):
            client, is_warm = coming.pop(0)
            came.append(job(client, str(len(came)), "warm" if is_warm else "cold"))
            queue.push(came[-1])
        else:
            taken.append(choose(queue.order(), warm))
            queue.take(taken[-1])
    assert sorted(map(id, taken)) == sorted(map(id, came))
    for each in came:
        assert each.passed_over <= MAX_PASSED_OVER
        before = taken[: taken.index(each)]
        later = came[came.index(each) + 1 :]
        overtakers = [other for other in later if other.client == each.client and other in before]
        assert len(overtakers) <= MAX_PASSED_OVER


@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["push", "push", "take", "remove"]), st.integers(0, 99)),
        max_size=40,
    )
)
@settings(deadline=None, derandomize=True, database=None)
def test_what_is_told_of_the_order_is_true_of_the_order(moves: list[tuple[str, int]]) -> None:
    queue = FairQueue()
    for number, (move, chance) in enumerate(moves):
        order = queue.order()
        if move == "push":
            request = ImageToImage(id=str(number), image=bytes(1 + chance))
            queue.push(Job(str(number), chance % 4, request))
        elif order:
            chosen = order[chance % len(order)]
            (queue.take if move == "take" else queue.remove)(chosen)
        order = queue.order()
        assert [queue.position(each) for each in order] == list(range(len(order)))
        assert len(queue) == len(order)
        assert queue.picture_bytes == sum(each.picture_bytes for each in order)
        assert set(queue.clients) == {each.client for each in order}
