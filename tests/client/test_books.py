"""Which inbox an event belongs into; what a link that broke leaves."""

from __future__ import annotations

import pytest

from runai.client.books import Books
from runai.client.kept import GONE
from runai.errors import ConnectionLost, DuplicateId, InvalidField
from runai.schema.events import Accepted, Canceled, ErrorBody
from tests.client.test_client import STATUS, completed, failed

LOST = ErrorBody.of(ConnectionLost("It broke."))


def test_a_request_gets_what_has_its_id_until_its_last_answer() -> None:
    books = Books()
    one, two = books.add_request("1"), books.add_request("2")
    assert books.enter(Accepted(id="2", position=0)) is two
    assert books.enter(completed("1")) is one
    assert books.enter(Accepted(id="1", position=0)) is None
    assert list(books.open) == ["2"]


def test_a_failure_of_nobodys_is_of_who_has_waited_longest() -> None:
    books = Books()
    first = books.add_request("1")
    asked, second = books.add_question("status"), books.add_request("2")
    nobodys = failed(InvalidField("Wrong."))
    assert books.enter(Accepted(id="1", position=0)) is first  # waits for a first answer no more
    assert books.enter(nobodys) is asked
    assert books.enter(nobodys) is second
    assert books.enter(nobodys) is None
    assert books.enter(STATUS) is None
    assert list(books.open) == ["1"]


def test_a_refused_request_was_not_confirmed_and_an_answered_one_was() -> None:
    books = Books()
    for name in "123":
        books.add_request(name)
    books.enter(failed(InvalidField("Wrong.")))
    books.enter(failed(InvalidField("Wrong."), "2"))
    books.enter(Canceled(id="3"))
    assert books.kept.confirmed == ("2", "3")


def test_what_the_server_has_of_what_was_kept_goes_on_and_the_rest_is_gone() -> None:
    before = Books()
    one, two = before.add_request("1"), before.add_request("2")
    books = Books(before.kept)
    assert books.go_on(["2", "3"]) == ["3"]
    assert one.get_nowait() == GONE
    assert books.enter(completed("2")) is two
    with pytest.raises(DuplicateId):
        books.add_request("3")  # somebody's answer is still to come
    books.enter(completed("3"))
    books.add_request("3")


def test_a_second_greeting_changes_nothing() -> None:
    before = Books()
    before.add_request("1")
    books = Books(before.kept)
    assert books.go_on(["1"]) == []
    assert books.go_on([]) == []
    assert list(books.open) == ["1"]


@pytest.mark.parametrize("keep_requests", [False, True])
def test_at_the_end_questions_are_let_down_and_requests_unless_they_are_kept(
    keep_requests: bool,
) -> None:
    books = Books()
    asked, request = books.add_question("models"), books.add_request("1")
    books.close(LOST, keep_requests=keep_requests)
    assert asked.get_nowait() == LOST
    assert request.empty() is keep_requests
    assert list(books.kept.inboxes) == ["1"] * keep_requests
