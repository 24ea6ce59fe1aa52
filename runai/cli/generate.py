"""`runai generate "a red circle" -o out.png`: draws a picture and saves it.

Ctrl-C cancels the request and waits for the server to confirm it; a second one leaves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from runai.cli import options, output
from runai.cli.embedded import connected
from runai.cli.exit_codes import SIGNAL_BASE, ExitCode
from runai.cli.parser import ASKING, Parser
from runai.cli.plain import plain
from runai.cli.progress import Display
from runai.cli.signals import caught
from runai.client import Answers, Client
from runai.errors import ConnectionLost, ServerStopping
from runai.jobs.engine import Engine
from runai.schema.events import Canceled, Completed, Failed
from runai.schema.requests import GenerationRequest

SETTINGS = (
    *ASKING, "model_base_path", "max_message_bytes", "max_input_pixels", "max_pixels", "max_steps",
    "max_images", "device", "dtype", "max_batch", "log_level",
)  # fmt: skip


def run(words: Sequence[str], make_engine: Callable[[], Engine] | None) -> int:
    arguments, settings = command_line().read(words)
    request = options.request_of(arguments)
    paths = output.paths_for(arguments.output, request.num_images)
    with connected(settings, make_engine) as client:
        interruption = Interruption(client)
        completed = _draw(client, request, interruption)
    if completed is None:
        print("runai: Canceled.", file=sys.stderr)
        return SIGNAL_BASE + interruption.number
    for note in completed.notes:
        print(plain(note), file=sys.stderr)
    output.save(completed, paths, sidecar=arguments.sidecar)
    return ExitCode.OK


def command_line() -> Parser:
    parser = Parser("generate", "Draw a picture and save it as a PNG file.")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out.png"),
        metavar="PATH",
        help="where to (out.png)",
    )
    parser.add_argument(
        "--sidecar", action="store_true", help="write all parameters to a .yaml file beside it"
    )
    options.add_to(parser)
    parser.add_settings(SETTINGS)
    return parser


class Interruption:
    """What Ctrl-C does: first cancel the request, then leave. Called on the signals' thread."""

    def __init__(self, client: Client) -> None:
        self.number = 0
        self._client = client
        self.answers: Answers | None = None

    def __call__(self, number: int) -> None:
        if self.number or self.answers is None:
            self._client.close()
        else:
            self.answers.cancel()
        self.number = number


def _draw(
    client: Client, request: GenerationRequest, interruption: Interruption
) -> Completed | None:
    """What the request came to; None if it was interrupted. Raises what it failed with."""
    with caught(interruption), Display() as display:
        try:
            interruption.answers = client.generate(request)
            for event in interruption.answers:
                display.show(event)
        except ConnectionLost:
            if interruption.number:
                return None
            raise
    if isinstance(event, Failed):
        raise event.error.to_exception()
    if isinstance(event, Canceled) and not interruption.number:
        raise ServerStopping("The server has canceled the request.")
    return event if isinstance(event, Completed) else None
