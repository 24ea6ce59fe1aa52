"""Every request gets exactly one last answer, whatever the server says or does not say."""

from __future__ import annotations

from typing import Any

from runai_krita.conversation import Conversation
from runai_krita.wire import encode


def talk_of(*asked: str) -> Conversation:
    """hello and models are asked for on connecting, then these requests."""
    talk = Conversation()
    talk.sent({"type": "hello"})
    talk.sent({"type": "models"})
    for request_id in asked:
        talk.sent({"type": "generate", "id": request_id})
    return talk


def say(talk: Conversation, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    return list(talk.hear(b"".join(map(encode, messages))))


def lost(talk: Conversation) -> list[str]:
    return [message["id"] for message in talk.lost("Gone.")]


ANSWERED = ({"type": "hello"}, {"type": "models"})
NAMELESS = {"type": "failed", "error": {"code": "message_too_large", "message": "", "hint": ""}}


def test_what_has_had_its_last_answer_is_not_lost() -> None:
    talk = talk_of("a", "b", "c", "d")
    say(talk, *ANSWERED, {"type": "accepted", "id": "a"}, {"type": "completed", "id": "b"})
    say(talk, {"type": "canceled", "id": "c"})
    assert lost(talk) == ["a", "d"]
    assert lost(talk) == [], "it is said once"


def test_a_failure_without_an_id_is_that_of_the_oldest_without_any_answer() -> None:
    talk = talk_of("a", "b")
    say(talk, *ANSWERED, {"type": "accepted", "id": "a"})
    assert [message["id"] for message in say(talk, dict(NAMELESS))] == ["b"]
    assert lost(talk) == ["a"]


def test_a_failure_of_a_question_ends_no_request() -> None:
    talk = talk_of("a")
    assert [m["id"] for m in say(talk, {"type": "hello"}, dict(NAMELESS))[1:]] == [""]
    assert lost(talk) == ["a"]


def test_a_refusal_on_connecting_ends_nothing() -> None:
    talk = Conversation()
    assert say(talk, dict(NAMELESS)) == [NAMELESS]
    assert not talk.greeted


def test_kinds_that_are_not_known_and_ids_of_others_change_nothing() -> None:
    talk = talk_of("a")
    say(talk, {"versions": {}}, {"type": "weather", "id": "a"}, {"type": "completed", "id": "z"})
    assert lost(talk) == ["a"]


def test_only_a_hello_makes_a_server() -> None:
    talk = talk_of()
    say(talk, {"versions": {}})
    assert not talk.greeted
    say(talk, {"type": "hello"})
    assert talk.greeted
