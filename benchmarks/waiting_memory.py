"""What one more client costs that waits: the server's resident memory, a client.

    python benchmarks/waiting_memory.py [--clients 400]

A server as a user starts it, with a scripted engine that draws slowly; --clients connect, and each
has one request of a few hundred bytes waiting. Half of them come first: what the second half adds
is what a client costs. Exits with 1 if that is a MiB or more. Linux only.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from pathlib import Path

import soak

from runai.client import Client
from runai.wire.connection import Connection, Message, Role

MIB = 2**20


class Waiting:
    """A client that is greeted, asks for one picture, and hears that it is accepted."""

    def __init__(self, port: int, number: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), 30)
        self._core = Connection(Role.CLIENT)
        asked = {"type": "generate", "task": "txt2img", "id": "w", "prompt": f"picture {number}"}
        asked |= {"num_inference_steps": 200, "width": 64, "height": 64}
        bodies = [json.dumps(said).encode() for said in ({"type": "hello"}, asked)]
        self.body_bytes = len(bodies[1])
        for body in bodies:
            self._core.send_message(body)
        self._sock.sendall(b"".join(self._core.data_to_send()))
        while self._heard() != "accepted":
            pass

    def _heard(self) -> str:
        while not isinstance(event := self._core.next_event(), Message):
            self._core.receive_data(self._sock.recv(1 << 16))
        return str(json.loads(event.body).get("type"))

    def close(self) -> None:
        self._sock.close()


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=400)
    args = parser.parse_args()
    half = args.clients // 2
    asked = argparse.Namespace(clients=args.clients, queued=args.clients, engine="scripted")
    server, port = soak.start_server(asked)
    try:
        with Client("127.0.0.1", port, observer=True) as observer:
            observer.models()  # waits for the engine
            waiting = [Waiting(port, number) for number in range(half)]
            before = resident_bytes(server.pid)
            waiting += [Waiting(port, number) for number in range(half, args.clients)]
            after = resident_bytes(server.pid)
            status = observer.status()
        for client in waiting:
            client.close()
    finally:
        server.terminate()
        server.communicate(timeout=30)
    body = waiting[-1].body_bytes
    each = (after - before) / half - body
    figures = {
        "name": "resident memory a waiting client, beyond its request's body",
        "bytes": round(each),
        "body_bytes": body,
        "clients": args.clients,
        "queued": status.queued,
        "resident_mib": round(after / MIB, 1),
    }
    print(
        f"{figures['name']}: {each / MIB:.3f} MiB ({args.clients} clients, "
        f"{status.queued} waiting, {after / MIB:.0f} MiB in all)"
    )
    print(json.dumps(figures))
    sys.exit(int(each > MIB))


if __name__ == "__main__":
    main()
