"""Many clients at once, each on its own threads, some rude: each is told the end of everything."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from runai.errors import QueueFull
from runai.jobs.service import Service
from runai.jobs.session import Session
from runai.schema.events import TERMINAL
from runai.testing.scripted import Fault, ScriptedEngine
from tests.jobs.asking import PATIENCE_S, ask, end_of, take

CLIENTS, REQUESTS = 8, 25
MODELS = ("", "other", "nowhere")
BAD = {
    "r3": Fault(ValueError("a bug")),
    "r7": Fault(MemoryError(), after_steps=1),
    "r11": Fault(OSError("the device is lost"), after_steps=0, raised=True),
}


class Stranger:
    """Submits and cancels on one thread and reads on another; may leave in the middle."""

    def __init__(self, service: Service, number: int) -> None:
        self.dice = random.Random(number)
        self.session: Session = service.open_session(str(number))
        self.leaves = number % 4 == 3
        self.accepted: list[str] = []
        self.ends: Counter[str] = Counter()
        self.threads = [threading.Thread(target=t) for t in (self.ask, self.listen)]
        for thread in self.threads:
            thread.start()

    def ask(self) -> None:
        for number in range(REQUESTS):
            request = ask(
                f"r{number}",
                model=self.dice.choice(MODELS),
                num_inference_steps=self.dice.randint(1, 4),
                preview=self.dice.random() < 0.5,
            )
            try:
                self.session.submit(request)
            except QueueFull:
                continue
            self.accepted.append(request.id)
            if self.dice.random() < 0.2:
                self.session.cancel(self.dice.choice(self.accepted))
        if self.leaves:
            self.session.close()
        else:
            self.session.finish()

    def listen(self) -> None:
        while (event := take(self.session)) is not None:
            if isinstance(event, TERMINAL):
                self.ends[str(event.id)] += 1


@pytest.mark.filterwarnings("error")
def test_everyone_who_stays_hears_the_end_of_each_request_once(
    serve: Callable[..., Service],
) -> None:
    engine = ScriptedEngine(faults=BAD, max_loaded=1)
    service = serve(engine)
    strangers = [Stranger(service, number) for number in range(CLIENTS)]
    for stranger in strangers:
        for thread in stranger.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
    for stranger in strangers:
        if not stranger.leaves:
            assert stranger.ends == Counter(stranger.accepted)
        assert max(stranger.ends.values(), default=1) == 1
    session = service.open_session()
    session.submit(ask("the worker lives"))
    assert end_of(session, "the worker lives").type == "completed"
    assert service.status().running == service.status().queued == 0
