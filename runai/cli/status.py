"""`runai status`: what the running server is doing; fails when there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runai.cli.embedded import client_for
from runai.cli.exit_codes import ExitCode
from runai.cli.parser import Parser
from runai.jobs.engine import Engine


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    parser = Parser("status", "Tell what the running server is doing.")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_settings(("host", "port", "packet_size", "insecure"))
    arguments, settings = parser.read(words)
    with client_for(settings, observer=True) as client:
        status = client.status()
    if arguments.json:
        print(status.model_dump_json(indent=2))
        return ExitCode.OK
    print(f"state    {status.state}" + (f": {status.detail}" if status.detail else ""))
    print(f"clients  {status.clients}")
    print(f"running  {status.running}, waiting {status.queued}")
    print(f"models   {', '.join(status.loaded_models) or 'none loaded'}")
    print(f"up       {status.uptime_s:.0f} s")
    return ExitCode.OK
