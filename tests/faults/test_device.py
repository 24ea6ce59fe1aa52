"""A device that fails so that this process can use it no more."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import children
import pytest

from tests.faults.servers import Apart, free_port
from tests.faults.watching import Table

# the server as it is; but once the file `poison` is there, all calls of networks fail, as all
# work on a device that is lost does. Who is started afterwards finds no such file.
POISONED = """
import pathlib, sys, torch
from torch.nn.modules.module import register_module_forward_pre_hook
poison = pathlib.Path(sys.argv.pop(1))
lost = []
def call(network, args):
    if poison.exists():
        poison.unlink()
        lost.append(True)
    if lost:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")
register_module_forward_pre_hook(call)
from runai.cli import main
sys.exit(main())
"""
WATCHED_OVER = """
while :; do
    {command}
    code=$?
    echo "ended with $code" >&2
    [ $code = 4 ] || exit
done
"""


@pytest.fixture
def watched_over(stack: ExitStack, models: Path, tmp_path: Path) -> Apart:
    """A server that draws with torch under a supervisor."""
    port = free_port()
    words = ["--port", str(port), "--keep-alive", "--device", "cpu", "--dtype", "fp32"]
    words += ["--model-base-path", str(models)]
    command = shlex.join([sys.executable, "-c", POISONED, str(tmp_path / "poison"), *words])
    shell = ["sh", "-c", WATCHED_OVER.format(command=command)]
    child = children.Child(shell, patience_s=children.LONG_S, start_new_session=True)
    stack.callback(child.close)
    stack.callback(_kill_all, child.process.pid)
    return Apart(child, model="v1/plain")


def _kill_all(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def test_all_are_told_of_a_lost_device_and_the_server_that_is_started_again_draws(
    watched_over: Apart, table: Table, tmp_path: Path
) -> None:
    with table.restarted("a device that is lost, under a supervisor", watched_over, 4) as watch:
        drawn, waits = watch.client(), watch.client()
        drawn.request("drawn", model="v1/plain", num_inference_steps=200)
        drawn.receive_type("progress")
        waits.request("waits", model="none/such")
        waits.receive_type("accepted")
        (tmp_path / "poison").touch()
        for client, request_id in ((drawn, "drawn"), (waits, "waits")):
            error = client.end_of(request_id)["error"]
            assert (error["code"], error["message"].count("launch failure")) == ("device_lost", 1)
            assert "Start the server again" in error["hint"]
