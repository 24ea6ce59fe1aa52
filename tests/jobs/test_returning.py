"""Clients whose connection broke: what goes on, what comes again, and when they are given up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runai.errors import ConnectionLost, DuplicateId, InvalidField, QueueFull
from runai.jobs.outbox import MAX_POSTED
from runai.jobs.service import Service
from runai.jobs.session import Session
from runai.schema.events import Accepted, Completed, Event, HelloEvent, Models
from runai.testing.scripted import ScriptedEngine
from tests.jobs.asking import ask, end_of, in_thread, take, take_until_end

SECRET = "a secret of the client's"
Serve = Callable[..., Service]


def come(service: Service, secret: str = SECRET, **more: object) -> tuple[Session, list[str]]:
    """A connection of the client with this secret, and what it is told is open."""
    session = service.open_session(**more)  # type: ignore[arg-type]
    session.resume(secret, service.hello(1))
    hello = take(session)
    assert isinstance(hello, HelloEvent)
    return session, hello.open


def ends(session: Session, *request_ids: str) -> list[str]:
    """The kinds of last answers, in that order, each confirmed as it comes."""
    kinds = []
    for request_id in request_ids:
        kinds.append(end_of(session, request_id).type)
        session.confirm(request_id)
    return kinds


def test_what_is_drawn_while_the_client_is_away_is_there_when_it_comes_back(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine)
    session, _ = come(service)
    session.submit(ask("a"))
    engine.gate.wait_until_reached()
    session.park()
    assert take(session) is None
    engine.gate.open()
    again, still_open = come(service)
    assert still_open == ["a"]
    events = take_until_end(again, "a")
    assert events[0] == Accepted(id="a", position=0) and isinstance(events[-1], Completed)
    again.confirm("a")
    assert come(service)[1] == []


def test_a_last_answer_that_is_not_confirmed_comes_again_first_and_in_order(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    session, _ = come(service)
    for name in "abc":
        session.submit(ask(name))
        end_of(session, name)
    session.confirm("b")
    session.park()
    again, still_open = come(service)
    assert still_open == ["a", "c"]
    came = [take(again) for _ in range(4)]
    assert [event.type for event in came if event] == ["accepted"] * 2 + ["completed"] * 2
    assert [getattr(event, "id", "") for event in came] == ["a", "c", "a", "c"]


def test_an_unconfirmed_answer_is_open_and_counts(serve: Serve) -> None:
    service = serve(ScriptedEngine(), max_open_per_session=1)
    session, _ = come(service)
    session.submit(ask("a"))
    end_of(session, "a")
    assert session.is_busy and session.is_open("a")
    with pytest.raises(DuplicateId):
        session.submit(ask("a"))
    with pytest.raises(QueueFull):
        session.submit(ask("b"))
    session.confirm("a")
    session.confirm("a")
    assert not session.is_busy
    session.submit(ask("a"))
    assert ends(session, "a") == ["completed"]


def test_unconfirmed_pictures_count_as_unread(serve: Serve) -> None:
    engine = ScriptedEngine(draw=lambda *_: bytes(100))
    session, _ = come(serve(engine, max_unread_bytes=150))
    for name in "ab":
        session.submit(ask(name))
        end_of(session, name)
    session.submit(ask("c"))
    assert isinstance(take(session), Accepted)
    assert engine.requests("admit") == ["a", "b"]
    session.confirm("a")
    assert end_of(session, "c").type == "completed"


def test_who_does_not_confirm_and_names_no_secret_sees_nothing_of_this(serve: Serve) -> None:
    session = serve(ScriptedEngine()).open_session()
    session.submit(ask("a"))
    end_of(session, "a")
    assert not session.is_busy
    session.confirm("a")


def test_a_new_connection_takes_over_while_the_old_one_seems_alive(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine)
    told: list[str] = []
    old, _ = come(service, on_replaced=lambda: told.append("replaced"))
    old.submit(ask("a"))
    waiting = in_thread(lambda: [old.take(), old.take(), old.take()])
    engine.gate.wait_until_reached()
    new, still_open = come(service)
    assert still_open == ["a"] and told == ["replaced"]
    assert waiting()[-1] is None
    with pytest.raises(ConnectionLost):
        old.submit(ask("b"))
    assert not old.cancel("a")
    old.cancel_all()
    old.finish()
    old.park()
    old.post(Models(models=[]))
    old.close()
    engine.gate.open()
    assert ends(new, "a") == ["completed"]
    assert service.status().clients == 1


def test_a_reader_that_waits_to_post_is_released_when_its_connection_is_let_go(
    serve: Serve,
) -> None:
    session, _ = come(serve(ScriptedEngine()))
    session.submit(ask("a"))
    end_of(session, "a")

    def post_too_many() -> None:
        for _ in range(MAX_POSTED + 1):
            session.post(Models(models=[]))

    posting = in_thread(post_too_many)
    session.park()
    posting()


def test_answers_to_questions_are_not_kept(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    session, _ = come(service)
    session.submit(ask("a"))
    end_of(session, "a")
    session.post(Models(models=[]))
    session.park()
    again, _ = come(service)
    kinds: list[Event | None] = [take(again) for _ in range(2)]
    assert [event.type for event in kinds if event] == ["accepted", "completed"]
    again.post(Models(models=[]))
    assert isinstance(take(again), Models)


def test_nothing_is_kept_for_a_client_that_left_or_had_nothing_open(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine)
    left, _ = come(service)
    left.submit(ask("a"))
    left.park()
    left.close()  # its stream was seen to end after all
    idle, still_open = come(service)
    assert still_open == []
    idle.park()
    assert service.expire() is None
    assert service.status().clients == 0
    nobody = service.open_session()
    nobody.submit(ask("b"))
    nobody.park()
    assert (service.status().clients, service.status().queued) == (0, 0)


def test_who_does_not_come_back_in_time_is_given_up(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine, resume_s=0.0)
    session, _ = come(service)
    session.submit(ask("a"))
    engine.gate.wait_until_reached()
    session.park()
    assert service.status().running == 1
    assert service.expire() is None
    assert (service.status().running, service.status().clients) == (0, 0)
    assert come(service)[1] == []


def test_it_is_known_how_long_the_next_one_is_waited_for(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine, resume_s=60.0)
    assert service.expire() is None
    session, _ = come(service)
    session.submit(ask("a"))
    session.park()
    left = service.expire()
    assert left is not None and 50 < left <= 60
    come(service)
    assert service.expire() is None


def test_of_too_many_the_one_waited_for_longest_is_given_up(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine, max_parked=2)
    for number in range(3):
        session, _ = come(service, SECRET + str(number))
        session.submit(ask("a"))
        session.park()
    service.expire()
    assert [come(service, SECRET + str(number))[1] for number in range(3)] == [[], ["a"], ["a"]]


def test_who_leaves_takes_nobodys_place_among_those_who_are_waited_for(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.gate.close()
    service = serve(engine, max_parked=1)
    waited_for, _ = come(service, SECRET + "1")
    waited_for.submit(ask("a"))
    waited_for.park()
    leaving, _ = come(service, SECRET + "2")
    leaving.submit(ask("b"))
    leaving.park()  # as every connection that ends, before it is known why
    leaving.close()
    service.expire()
    assert come(service, SECRET + "1")[1] == ["a"]


def test_a_secret_is_named_before_anything_else(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    used = service.open_session()
    used.post(Models(models=[]))
    take(used)
    named, _ = come(service)
    for session in (used, named):
        with pytest.raises(InvalidField):
            session.resume(SECRET, service.hello(1))


def test_a_server_that_ends_waits_for_no_confirmation(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    session, _ = come(service)
    session.submit(ask("a"))
    end_of(session, "a")
    session.finish()
    assert take(session) is None
