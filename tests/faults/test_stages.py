"""An exception of any kind, in everything that is asked of an engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from runai.errors import DeviceLost
from runai.jobs.faults import as_error
from runai.testing.scripted import Fault, ScriptedEngine
from tests.faults.servers import Here
from tests.faults.watching import Table, Watch


class Panic(BaseException):
    """As pyo3's PanicException, which a panic in Rust becomes: no Exception."""


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def odd_errors() -> list[BaseException]:
    return [
        RuntimeError("x" * 100_000),
        KeyError("weight"),
        AssertionError(),
        SystemError("error return without exception set"),
        MemoryError(),
        RecursionError("maximum recursion depth exceeded"),
        StopIteration(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        SystemExit(1),
        Panic("called `Option::unwrap()` on a `None` value"),
        Speechless(),
    ]


def ask_until_raised(watch: Watch, errors: list[BaseException]) -> set[str]:
    """The kinds of last answers to requests, until each error was raised in one of them."""
    ends = []
    while errors:
        ends.append(watch.ask(f"faulty {len(ends)}", model="other"))
    assert all(len(str(end.get("error"))) < 1000 for end in ends)
    return {end["type"] for end in ends}


@pytest.mark.parametrize("stage", ["is_warm", "model_of", "admit", "step", "finish"])
def test_an_exception_while_a_request_is_drawn_is_that_requests_failure(
    scripted: Callable[..., Here], table: Table, stage: str
) -> None:
    engine = ScriptedEngine(late=True)
    with table.survived(f"any exception in {stage}", scripted(engine)) as watch:
        # an odd number of them, twice: what is asked twice of a request meets each both times
        engine.breaks = {stage: [*odd_errors(), *odd_errors()]}
        assert ask_until_raised(watch, engine.breaks[stage]) == {"failed"}


def test_an_exception_in_a_step_is_told_to_all_whose_it_may_be(
    scripted: Callable[..., Here], table: Table
) -> None:
    engine = ScriptedEngine()
    with table.survived("any exception in a step for several", scripted(engine)) as watch:
        for error in odd_errors():
            engine.gate.close()
            engine.faults = {"b": Fault(error, after_steps=1, raised=True)}
            clients = {name: watch.client() for name in "abc"}
            for name, client in clients.items():
                client.request(name, num_inference_steps=9)
                client.receive_type("loading", "accepted")
            engine.gate.let_pass()
            engine.gate.open()
            assert clients["b"].end_of("b")["type"] == "failed"
            for client in clients.values():
                client.settle()


def test_what_cannot_be_let_go_of_does_not_end_the_drawing(
    scripted: Callable[..., Here], table: Table
) -> None:
    engine = ScriptedEngine()
    with table.survived("any exception in rest", scripted(engine)) as watch:
        engine.breaks = {"rest": odd_errors()}
        assert ask_until_raised(watch, engine.breaks["rest"]) == {"completed"}


@pytest.mark.parametrize(
    ("question", "stage"),
    [
        ("models", "models"),
        ("models", "unusable"),
        ("status", "loaded_models"),
        ("status", "holdings"),
        ("status", "newest_memory"),
    ],
)
def test_a_question_that_the_engine_cannot_answer_fails_alone(
    scripted: Callable[..., Here], table: Table, question: str, stage: str
) -> None:
    engine = ScriptedEngine()
    with table.survived(f"an exception in {stage}", scripted(engine)) as watch:
        client = watch.client()
        errors = [error for error in odd_errors() if isinstance(error, Exception)]
        engine.breaks = {stage: errors}
        while errors:
            client.send({"type": question})
            failed = client.receive_type("failed", question)
            assert failed["type"] == "failed" and failed["error"]["code"] == "internal"
        watch.saw("internal")


@pytest.mark.parametrize("stage", ["make_engine", "is_busy", "has_room", "drop"])
def test_an_engine_that_breaks_for_good_ends_the_server_and_everybody_is_told(
    stack: ExitStack, stage: str
) -> None:
    lost = DeviceLost("The device is gone.")
    for error in [*odd_errors(), lost]:
        engine = ScriptedEngine()
        engine.loading_gate.close()
        # the first request fails by the step and is dropped, the others wait
        engine.breaks = {stage: [error], "close": [OSError("busy")]}
        if stage == "drop":
            engine.breaks["step"] = [error]
        codes = codes_of_all(stack, engine)
        assert codes == {as_error(error).code}


def codes_of_all(stack: ExitStack, engine: ScriptedEngine) -> set[str]:
    """What three clients are told by a server that ends of its first request."""

    def make() -> ScriptedEngine:
        engine.loading_gate.enter()
        if errors := engine.breaks.get("make_engine"):
            raise errors[0]
        return engine

    server = Here(make)
    stack.callback(server.end)
    stack.callback(engine.loading_gate.open)
    watch = Watch(server)
    stack.callback(watch.close)
    clients = [watch.client() for _ in range(3)]
    for number, client in enumerate(clients):
        client.request(str(number), num_inference_steps=4)
        client.receive_type("accepted")
    engine.loading_gate.open()
    for client in clients:
        client.read_to_the_end()
    watch.check_answers()
    server.end()
    assert len(server.fatal) == 1
    return {answer["error"]["code"] for c in clients for ends in c.last.values() for answer in ends}
