"""`runai status`: what the running server is doing and holds; fails when there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from runai.cli import wiring
from runai.cli.exit_codes import ExitCode
from runai.cli.parser import ASKING, Parser
from runai.jobs.engine import Engine
from runai.schema.events import Holdings, Status
from runai.schema.units import bytes_text


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    parser = Parser("status", "Tell what the running server is doing.")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_settings(ASKING)
    arguments, settings = parser.read(words)
    with wiring.client(settings, observer=True) as client:
        status = client.status()
    if arguments.json:
        print(status.model_dump_json(indent=2))
        return ExitCode.OK
    for line in _lines(status):
        print(line)
    return ExitCode.OK


def _lines(status: Status) -> Iterator[str]:
    yield f"state    {status.state}" + (f": {status.detail}" if status.detail else "")
    yield f"clients  {status.clients}"
    yield f"running  {status.running}, waiting {status.queued}"
    yield f"models   {', '.join(status.loaded_models) or 'none loaded'}"
    yield f"up       {status.uptime_s:.0f} s"
    if status.memory is not None:
        yield f"plan     {status.memory.plan}: {status.memory.reason}"
    yield from _memory(status.holdings)


def _memory(holdings: Holdings) -> Iterator[str]:
    loaded, free = bytes_text(holdings.loaded_bytes), bytes_text(holdings.free_bytes)
    most = f", at most {bytes_text(holdings.max_bytes)}" if holdings.max_bytes else ""
    yield f"memory   {loaded} loaded, {free} free{most}"
    for held in holdings.loaded:
        use = "in use" if held.in_use else f"idle for {held.idle_s:.0f} s"
        plan = f", {held.plan}" if held.plan else ""
        yield f"         {bytes_text(held.bytes):>8}  {held.kind} {held.name}{plan}, {use}"
    for size, what in (
        (holdings.lora_bytes, "LoRAs"),
        (holdings.filter_bytes, "NSFW filter"),
        (holdings.prompt_cache_bytes, "encoded prompts"),
    ):
        if size:
            yield f"         {bytes_text(size):>8}  {what}"
