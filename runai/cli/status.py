"""`runai status`: what the running server is doing and holds; fails when there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from runai.cli import wiring
from runai.cli.exit_codes import ExitCode
from runai.cli.parser import ASKING, Parser
from runai.jobs.engine import Engine
from runai.schema.events import Counters, Holdings, StageTimings, Status
from runai.schema.units import bytes_text, seconds_text

WATCH_S = 1.0
CLEAR = "\x1b[H\x1b[2J"  # a terminal's screen


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    arguments, settings = command_line().read(words)
    with wiring.client(settings, observer=True) as client:
        _show(client.status(), json=arguments.json)
        while arguments.watch:
            time.sleep(WATCH_S)
            status = client.status()
            print(CLEAR if sys.stdout.isatty() else "", end="")
            _show(status, json=arguments.json)
    return ExitCode.OK


def command_line() -> Parser:
    parser = Parser("status", "Tell what the running server is doing.")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--watch", action="store_true", help="again each second, until Ctrl-C")
    parser.add_settings(ASKING)
    return parser


def _show(status: Status, *, json: bool) -> None:
    lines = [status.model_dump_json(indent=2)] if json else _lines(status)
    print("\n".join(lines), flush=True)


def _lines(status: Status) -> Iterator[str]:
    yield f"state    {status.state}" + (f": {status.detail}" if status.detail else "")
    yield f"clients  {status.clients}"
    yield f"running  {status.running}, waiting {status.queued}"
    yield f"models   {', '.join(status.loaded_models) or 'none loaded'}"
    yield f"up       {status.uptime_s:.0f} s"
    if status.memory is not None:
        yield f"plan     {status.memory.plan}: {status.memory.reason}"
    if status.state != "starting":  # or nothing is known yet
        yield from _memory(status.holdings)
    yield from _counted(status.counters)
    yield from _timed(status.timings)
    if status.call_times:
        each = (f"{call.rows} rows {seconds_text(call.seconds)}" for call in status.call_times)
        yield f"calls    {', '.join(each)}"


def _memory(holdings: Holdings) -> Iterator[str]:
    loaded, free = bytes_text(holdings.loaded_bytes), bytes_text(holdings.free_bytes)
    most = f", at most {bytes_text(holdings.max_bytes)}" if holdings.max_bytes else ""
    yield f"memory   {loaded} loaded, {free} free{most}"
    for held in holdings.loaded:
        use = "in use" if held.in_use else f"idle for {held.idle_s:.0f} s"
        plan = f", {held.plan}, by {held.backend}" if held.plan else ""
        yield f"         {bytes_text(held.bytes):>8}  {held.kind} {held.name}{plan}, {use}"
    for size, what in (
        (holdings.backend_bytes, "for OpenVINO or CUDA graphs"),
        (holdings.lora_bytes, "LoRAs"),
        (holdings.filter_bytes, "NSFW filter"),
        (holdings.prompt_cache_bytes, "encoded prompts"),
    ):
        if size:
            yield f"         {bytes_text(size):>8}  {what}"


def _counted(counters: Counters) -> Iterator[str]:
    """What there was of; nothing is said of what there was not."""
    c = counters
    if c.accepted:
        failed = sum(c.failed.values())
        ends = f"{c.completed} completed, {failed} failed, {c.canceled} canceled"
        yield f"requests {c.accepted}: {ends}"
        yield f"drawn    {c.pictures} pictures, {c.steps} steps"
    for name, codes in (("failed", c.failed), ("refused", c.refused)):
        if codes:
            yield f"{name:<8} {_by_code(codes)}"
    if c.connections or c.connections_refused:
        yield f"seats    {c.connections} given, {c.connections_refused} refused"
    if c.received_bytes or c.sent_bytes:
        traffic = f"{bytes_text(c.received_bytes)} received, {bytes_text(c.sent_bytes)} sent"
        yield f"traffic  {traffic}"


def _by_code(codes: Mapping[str, int]) -> str:
    return ", ".join(f"{times} {code}" for code, times in sorted(codes.items()))


def _timed(timings: Sequence[StageTimings]) -> Iterator[str]:
    if timings:
        yield f"{'stage':<8} {'times':>7} {'mean':>8} {'half in':>8} {'95 % in':>8}"
    for t in timings:
        took = " ".join(f"{seconds_text(s):>8}" for s in (t.mean_s, t.p50_s, t.p95_s))
        yield f"  {t.stage:<6} {t.count:>7} {took}"
