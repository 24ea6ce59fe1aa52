"""Some of the clients of `soak.py`: a process of its own, one line of JSON in the end.

Each client keeps as many requests open as it is told to, of mixed sizes, some with a picture;
when one is answered it asks the next, and of some it wants the end soon after. It keeps account of
every request: what was accepted, and how many last answers came. Every second client names a
session, and confirms. At the end of the time all cancel what they have open, and wait for the rest.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import random
import sys
import time
from collections import Counter
from typing import Any

from PIL import Image

from runai.wire.connection import Connection, Message, Role

LAST = ("completed", "failed", "canceled")
NICENESS = 5  # what is measured is the server
CANCELED, WITH_PICTURE = 0.1, 0.1  # of all requests
SIDES, STEPS = (64, 64, 128, 256), (2, 4, 8, 16)
DRAIN_S = 120.0
# people ask for variations; were they all different, the prompt cache alone would grow to its bound
PROMPTS = [f"picture {n}" for n in range(100)]


def picture() -> str:
    """Some 100 KB that do not compress."""
    noise = Image.frombytes("RGB", (192, 192), random.Random(1).randbytes(192 * 192 * 3))
    out = io.BytesIO()
    noise.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


class SoakClient:
    """One connection, and the account of its requests."""

    def __init__(self, number: int, open_at_once: int, chance: random.Random) -> None:
        self.number = number
        self._open_at_once = open_at_once
        self._chance = chance
        self._keeps = number % 2 == 1
        self._asked = 0
        self._core = Connection(Role.CLIENT)
        self.accepted: Counter[str] = Counter()
        self.last: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.completed_at: list[float] = []
        self.open: set[str] = set()
        self.trouble = ""

    async def run(self, port: int, until: float, image: str) -> None:
        self._image = image
        reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        hello = {"type": "hello", "client": f"soak {self.number}"}
        self._send(hello | ({"session": f"soak session {self.number:08}"} if self._keeps else {}))
        try:
            for _ in range(self._open_at_once):
                self._ask()
            await self._read_until(reader, until, go_on=True)
            for name in list(self.open):
                self._send({"type": "cancel", "id": name})
            await self._read_until(reader, time.monotonic() + DRAIN_S, go_on=False)
        finally:
            self._writer.close()

    async def _read_until(self, reader: asyncio.StreamReader, until: float, *, go_on: bool) -> None:
        while self.open and not self.trouble and time.monotonic() < until:
            try:
                data = await asyncio.wait_for(reader.read(1 << 18), until - time.monotonic())
            except TimeoutError:
                return
            if not data:
                self.trouble = "the server closed the connection"
                return
            self._core.receive_data(data)
            while isinstance(event := self._core.next_event(), Message):
                self._hear(json.loads(event.body), go_on=go_on)
            await self._writer.drain()

    def _hear(self, message: dict[str, Any], *, go_on: bool) -> None:
        kind, name = message.get("type"), message.get("id")
        if kind == "accepted":
            self.accepted[name] += 1
            if go_on and self._chance.random() < CANCELED:
                self._send({"type": "cancel", "id": name})
        elif kind in LAST and name is not None:
            self._answered(kind, name, message)
            if go_on:
                self._ask()
        elif kind == "failed":
            self.trouble = str(message["error"])

    def _answered(self, kind: str, name: str, message: dict[str, Any]) -> None:
        self.last[name] += 1
        self.kinds[kind if kind != "failed" else message["error"]["code"]] += 1
        self.open.discard(name)
        if kind == "completed":
            self.completed_at.append(time.monotonic())
        if self._keeps:
            self._send({"type": "received", "id": name})

    def _ask(self) -> None:
        self._asked += 1
        name = f"{self.number}-{self._asked}"
        side = self._chance.choice(SIDES)
        asked: dict[str, Any] = {"type": "generate", "task": "txt2img", "id": name}
        asked |= {"prompt": self._chance.choice(PROMPTS), "width": side, "height": side}
        asked |= {"seed": self._asked}
        asked |= {"num_inference_steps": self._chance.choice(STEPS)}
        if self._chance.random() < WITH_PICTURE:
            asked |= {"task": "img2img", "image": self._image, "strength": 0.8}
        self.open.add(name)
        self._send(asked)

    def _send(self, message: dict[str, Any]) -> None:
        self._core.send_message(json.dumps(message).encode())
        self._writer.write(b"".join(self._core.data_to_send()))

    @property
    def unsettled(self) -> list[str]:
        """What was not answered, or not once, or answered and never asked."""
        names = {*self.accepted, *self.last, *self.open}
        return [n for n in names if (self.accepted[n], self.last[n]) != (1, 1)]


async def all_of(numbers: range, open_at_once: int, port: int, until: float) -> list[SoakClient]:
    image = picture()
    clients = [SoakClient(n, open_at_once, random.Random(n)) for n in numbers]
    runs = (client.run(port, until, image) for client in clients)
    for client, failed in zip(
        clients, await asyncio.gather(*runs, return_exceptions=True), strict=True
    ):
        if isinstance(failed, BaseException):
            client.trouble = repr(failed)
    return clients


def main() -> None:
    first, count, open_at_once, port = map(int, sys.argv[1:5])
    os.nice(NICENESS)
    clients = asyncio.run(
        all_of(range(first, first + count), open_at_once, port, float(sys.argv[5]))
    )
    done = {
        "accepted": sum(sum(client.accepted.values()) for client in clients),
        "kinds": sum((client.kinds for client in clients), Counter()),
        "unsettled": [name for client in clients for name in client.unsettled][:20],
        "troubles": [client.trouble for client in clients if client.trouble][:20],
        "completed_at": {client.number: client.completed_at for client in clients},
    }
    print(json.dumps(done))


if __name__ == "__main__":
    main()
