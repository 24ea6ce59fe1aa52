"""One client asks for much: others are let in beside it, up to twice what there is room for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runai.jobs.service import Service
from runai.jobs.session import Session
from runai.schema.events import Memory
from runai.testing.scripted import ScriptedEngine
from tests.jobs.asking import ask

Serve = Callable[..., Service]
CAPACITY = 4


class Flooded:
    """A service that draws as many as it has room for, all of one client, and more wait."""

    def __init__(
        self,
        serve: Serve,
        capacity: int = CAPACITY,
        make_engine: Callable[..., ScriptedEngine] = ScriptedEngine,
    ) -> None:
        self.engine = make_engine(capacity=capacity)
        self.engine.gate.close()
        self.service = serve(self.engine)
        self.session = self.service.open_session()
        self.flood("flood", times=3 * CAPACITY)
        self.turn()

    def flood(self, name: str, times: int) -> None:
        self._ask(self.session, name, times)

    def _ask(self, session: Session, name: str, times: int) -> None:
        for number in range(times):
            session.submit(ask(f"{name}{number}", num_inference_steps=50))

    def come(self, *names: str, times: int = 1) -> None:
        for name in names:
            self._ask(self.service.open_session(), name, times)

    def turn(self, times: int = 1) -> None:
        """So many turns of the worker: what waited before them has been seen."""
        for _ in range(times):
            self.engine.gate.wait_until_reached()
            self.engine.gate.let_pass()
        self.engine.gate.wait_until_reached()

    @property
    def drawn(self) -> list[str]:
        """The last step's requests, in the order in which they were taken up."""
        return self.engine.requests("step")[-1].split(",")


def test_who_has_nothing_is_let_in_beside_a_flood(serve: Serve) -> None:
    flooded = Flooded(serve)
    flooded.turn(2)
    before = flooded.drawn
    assert before == [f"flood{number}" for number in range(CAPACITY)]
    flooded.come("a", times=5)
    flooded.turn(3)
    assert flooded.drawn == [*before, "a0"], "and with one request only"


def test_no_more_are_let_in_than_there_is_room_for_twice(serve: Serve) -> None:
    flooded = Flooded(serve)
    flooded.come(*"abcdefgh")
    flooded.turn(3)
    assert flooded.drawn[CAPACITY:] == ["a0", "b0", "c0"], "each in the place of another's second"


def test_nobody_is_let_in_where_each_has_one(serve: Serve) -> None:
    flooded = Flooded(serve, capacity=1)
    flooded.come("a", "b")
    flooded.turn(3)
    assert flooded.drawn == ["flood0"]


class ShortOfMemory(ScriptedEngine):
    """Its networks have to be moved to be called."""

    def newest_memory(self) -> Memory:
        return Memory(plan="offload", reason="", needed_bytes=2, free_bytes=1)


@pytest.mark.parametrize(
    ("make_engine", "begun"), [(ScriptedEngine, 1), (ShortOfMemory, 3)], ids=["ample", "short"]
)
def test_beside_others_a_flood_begins_one_at_a_time_unless_that_has_its_price(
    serve: Serve, make_engine: Callable[..., ScriptedEngine], begun: int
) -> None:
    flooded = Flooded(serve, 3 * CAPACITY + 2, make_engine)
    flooded.turn(2)
    everything = [f"flood{number}" for number in range(3 * CAPACITY)]
    assert flooded.drawn == everything, "alone it is taken up at once"
    for name in everything[1:]:
        flooded.session.cancel(name)
    flooded.come("a")
    flooded.turn(2)
    flooded.flood("late", times=3)
    flooded.turn(2)
    assert flooded.drawn == ["flood0", "a0", "late0", "late1", "late2"][: 2 + begun]
    flooded.turn(2)
    assert flooded.drawn == ["flood0", "a0", "late0", "late1", "late2"]
