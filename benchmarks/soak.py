"""Hundreds of clients with thousands of requests for a quarter of an hour: what a server promises.

    python benchmarks/soak.py --minutes 15
    python benchmarks/soak.py --minutes 5 --engine example

A server is started as a user would, with a scripted engine that takes `STEP_S` for a step of a
batch and draws plain pictures, or with the example model. `soak_clients.py` plays the clients, in
a few processes, so that always about --queued requests are open. Meanwhile an observer asks for the
status 20 times a second, and the server's resident memory is read once a second. Beside each status
a process that does nothing else is asked to give back one packet: that is the floor which this
machine has, with all else that runs on it. Exits with 1 if a promise is broken:

- every accepted request got exactly one last answer, and no connection was lost;
- fair: between two completed requests of a client no more than `MOST_TURNS` times as many others'
  are completed as there are clients; Jain's index of completed requests is at least `LEAST_JAIN`
  (1: all equal; of few requests each it is less by mere chance, so it counts from `ENOUGH` on);
- memory: by the least-squares line through the second half, of means of `WINDOW_S`, it grows by
  less than `MOST_GROWTH_MIB_PER_MIN`, as far as the line's standard error, twice, lets tell:
  what is freed is given back in pieces of tens of MB, so that a few minutes say little;
- 99 of 100 answers to `status` come within `STATUS_P99_S`, all the time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runai.client import Client
from runai.testing.scripted import ScriptedEngine

STEP_S, CAPACITY = 0.01, 8
ASK_EVERY_S, LOOK_EVERY_S = 0.05, 1.0
MOST_TURNS, LEAST_JAIN, ENOUGH = 2.0, 0.99, 20
MOST_GROWTH_MIB_PER_MIN, WINDOW_S = 1.0, 15.0
STATUS_P99_S = 0.020
DRAIN_S = 150.0
HERE = Path(__file__).resolve()
MIB, PACKET = 2**20, 1024


class SlowEngine(ScriptedEngine):
    """Takes its time for a step, and keeps no log, which would grow."""

    def step(self) -> Any:
        time.sleep(STEP_S)
        return super().step()

    def _note(self, what: str, of: str) -> None:
        pass


def serve(words: Sequence[str]) -> int:
    from runai.cli import main

    return main(["serve", *words], make_engine=lambda: SlowEngine(capacity=CAPACITY))


def start_server(args: argparse.Namespace) -> tuple[subprocess.Popen[str], int]:
    seats, queue = str(args.clients + 8), str(2 * args.queued)
    words = ["--host", "127.0.0.1", "--port", "0", "--keep-alive", "--max-queued", queue]
    words += ["--max-client-connections", seats, "--max-connections-per-peer", seats]
    command = [str(HERE), "--serve"] if args.engine == "scripted" else ["-m", "runai", "serve"]
    server = subprocess.Popen([sys.executable, *command, *words], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"port (\d+)", line):
            return server, int(found[1])
    raise SystemExit(f"The server did not listen, and ended with {server.wait()}.")


def echo() -> None:
    """Give back what one client sends, for the floor."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        client, _ = listener.accept()
        with client:
            while data := client.recv(PACKET):
                client.sendall(data)


class Floor:
    """The process that gives packets back."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, str(HERE), "--echo"], stdout=subprocess.PIPE, text=True
        )
        assert self._child.stdout is not None
        port = int(self._child.stdout.readline())
        self._sock = socket.create_connection(("127.0.0.1", port))

    def ask(self) -> float:
        """Seconds that one packet takes."""
        began = time.monotonic()
        self._sock.sendall(bytes(PACKET))
        self._sock.recv(PACKET, socket.MSG_WAITALL)
        return time.monotonic() - began

    def close(self) -> None:
        self._sock.close()
        self._child.communicate()


def start_clients(args: argparse.Namespace, port: int, until: float) -> list[subprocess.Popen[str]]:
    share = args.clients // args.processes
    each = args.queued // args.clients
    words = [sys.executable, str(HERE.with_name("soak_clients.py"))]
    return [
        subprocess.Popen(
            [*words, str(number * share), str(share), str(each), str(port), str(until)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(args.processes)
    ]


class Watch:
    """What is seen of the server from outside. Times since the beginning, in seconds."""

    def __init__(self, pid: int) -> None:
        self._process = Path("/proc", str(pid))
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._began = time.monotonic()
        self.resident: list[tuple[float, int]] = []
        self.waits: list[float] = []
        self.floors: list[float] = []
        self.most_queued = 0

    def watch(self, observer: Client, floor: Floor, until: float) -> None:
        look_at, busy_s = 0.0, self._busy_s()
        while (now := time.monotonic()) < until:
            self.most_queued = max(self.most_queued, observer.status().queued)
            self.waits.append(time.monotonic() - now)
            self.floors.append(floor.ask())
            if now >= look_at:
                pages = int((self._process / "statm").read_text().split()[1])
                self.resident.append((now - self._began, pages * self._page))
                look_at = now + LOOK_EVERY_S
            time.sleep(max(ASK_EVERY_S - (time.monotonic() - now), 0.0))
        self.busy = (self._busy_s() - busy_s) / (time.monotonic() - self._began)

    def _busy_s(self) -> float:
        """Processor time that the server has used."""
        fields = (self._process / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def growth_mib_per_min(self) -> tuple[float, float]:
        """And its standard error."""
        windows: dict[int, list[float]] = {}
        for at, size in self.resident[len(self.resident) // 2 :]:
            windows.setdefault(int(at / WINDOW_S), []).append(size / MIB)
        if len(windows) < 3:
            return math.nan, math.nan
        minutes = [number * WINDOW_S / 60 for number in windows]
        means = [statistics.fmean(sizes) for sizes in windows.values()]
        slope, offset = statistics.linear_regression(minutes, means)
        apart = [mean - offset - slope * at for at, mean in zip(minutes, means, strict=True)]
        spread = math.sqrt(sum(a * a for a in apart) / (len(means) - 2))
        return slope, spread / math.sqrt(statistics.variance(minutes) * (len(means) - 1))


def fairness(results: list[dict[str, Any]], began: float, until: float) -> dict[str, float]:
    """Of what was completed while all clients had requests waiting: not in the first tenth."""
    begin = began + (until - began) / 10
    done = sorted(
        (at, client)
        for result in results
        for client, times in result["completed_at"].items()
        for at in times
        if begin <= at <= until
    )
    counts = {client: 0 for result in results for client in result["completed_at"]}
    latest: dict[str, int] = {}
    longest = 0
    for turn, (_, client) in enumerate(done):
        longest = max(longest, turn - latest.get(client, turn))
        latest[client] = turn
        counts[client] += 1
    squares = sum(count**2 for count in counts.values())
    jain = len(done) ** 2 / (len(counts) * squares) if squares else 0.0
    return {
        "jain": round(jain, 4),
        "most_turns": longest,
        "completed_each": round(len(done) / len(counts), 1),
    }


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def report(args: argparse.Namespace, results: list[dict[str, Any]], watch: Watch) -> dict[str, Any]:
    growth, error = watch.growth_mib_per_min()
    kinds: dict[str, int] = {}
    for result in results:
        for kind, count in result["kinds"].items():
            kinds[kind] = kinds.get(kind, 0) + count
    return {
        "engine": args.engine,
        "minutes": args.minutes,
        "clients": args.clients,
        "most_queued": watch.most_queued,
        "accepted": sum(result["accepted"] for result in results),
        **{f"answered_{kind}": count for kind, count in sorted(kinds.items())},
        "unsettled": [name for result in results for name in result["unsettled"]],
        "troubles": [trouble for result in results for trouble in result["troubles"]],
        "resident_mib": round(watch.resident[-1][1] / MIB, 1),
        "growth_mib_per_min": round(growth, 3),
        "growth_error": round(error, 3),
        "status_asked": len(watch.waits),
        "status_p50_ms": round(percentile(watch.waits, 0.5) * 1000, 2),
        "status_p99_ms": round(percentile(watch.waits, 0.99) * 1000, 2),
        "status_max_ms": round(max(watch.waits) * 1000, 2),
        "floor_p99_ms": round(percentile(watch.floors, 0.99) * 1000, 2),
        "floor_max_ms": round(max(watch.floors) * 1000, 2),
        "server_busy": round(watch.busy, 2),
    }


def broken(figures: dict[str, Any], clients: int) -> list[str]:
    """The promises that were not kept."""
    enough = figures["completed_each"] >= ENOUGH
    surely = figures["growth_mib_per_min"] - 2 * figures["growth_error"]
    checks = {
        "exactly one last answer": not (figures["unsettled"] or figures["troubles"]),
        "fair turns": figures["most_turns"] <= MOST_TURNS * clients,
        "fair shares": figures["jain"] >= LEAST_JAIN or not enough,
        "memory is flat": not surely > MOST_GROWTH_MIB_PER_MIN,
        "status in time": figures["status_p99_ms"] < STATUS_P99_S * 1000,
    }
    return [name for name, kept in checks.items() if not kept]


def soak(args: argparse.Namespace) -> int:
    server, port = start_server(args)
    floor = Floor()
    try:
        with Client("127.0.0.1", port, observer=True) as observer:
            observer.models()  # waits for an engine that is imported first
            began = time.monotonic()
            until = began + args.minutes * 60
            clients = start_clients(args, port, until)
            watch = Watch(server.pid)
            watch.watch(observer, floor, until)
            said = [client.communicate(timeout=DRAIN_S)[0] for client in clients]
        results = [json.loads(text) for text in said]
        figures = report(args, results, watch) | fairness(results, began, until)
    finally:
        floor.close()
        server.terminate()
        code = server.wait(30)
    figures |= {"exit_code": code, "broken": broken(figures, args.clients)}
    for name, value in figures.items():
        print(f"{name:>20}  {value}")
    print(json.dumps(figures))
    return 1 if figures["broken"] or code else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--engine", choices=("scripted", "example"), default="scripted")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--queued", type=int, default=2000, help="requests open in all")
    parser.add_argument("--processes", type=int, default=2, help="that play the clients")
    return soak(parser.parse_args())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--echo"]:
        echo()
    else:
        sys.exit(serve(sys.argv[2:]) if sys.argv[1:2] == ["--serve"] else main())
