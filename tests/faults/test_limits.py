"""A process that may have no more memory, and one that has no temporary folder."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import children
import pytest
import tiny

from tests.faults.servers import Apart, free_port
from tests.faults.watching import Table

# before the server: a temporary folder that is full, and nothing else that can be written to
NOWHERE = """
mount -t tmpfs -o size=4k full {full} && dd if=/dev/zero of={full}/fill bs=4k count=1 2>/dev/null
mount -o remount,bind,ro / && exec "$@"
"""


@pytest.fixture
def base(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a second model that is larger than what a process has left over of its memory."""
    shutil.copytree(models, tmp_path / "models")
    larger = tiny.Tiny("StableDiffusionPipeline", {"block_out_channels": [160, 320]})
    monkeypatch.setitem(tiny.MODELS, "larger", larger)
    tiny.write_model(tmp_path / "models" / "v1" / "larger", "larger")
    return tmp_path / "models"


@pytest.fixture
def start(stack: ExitStack, base: Path) -> Callable[..., Apart]:
    """A child that draws with torch, started by these words."""

    def begin(*before: str, **more: Any) -> Apart:
        port = free_port()
        words = ["--port", str(port), "--keep-alive", "--device", "cpu", "--dtype", "fp32"]
        words += ["--model-base-path", str(base)]
        serve = [sys.executable, "-m", "runai", *words]
        child = children.Child([*before, *serve], patience_s=children.LONG_S, **more)
        stack.callback(child.close)
        return Apart(child, port, model="v1/plain")

    return begin


@contextmanager
def no_more_than(server: Apart, more_bytes: int) -> Iterator[None]:
    """Within, the process may have only so much address space more than it has."""
    size_pages = int(Path("/proc", str(server.pid), "statm").read_text().split()[0])
    most = size_pages * os.sysconf("SC_PAGE_SIZE") + more_bytes
    free = resource.prlimit(server.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    yield
    resource.prlimit(server.pid, resource.RLIMIT_AS, free)


def test_a_process_that_may_have_no_more_memory(start: Callable[..., Apart], table: Table) -> None:
    server = start()
    with table.survived("RLIMIT_AS while a model is loaded", server) as watch:
        client = watch.client()
        with no_more_than(server, 2**20):
            client.request("load", model="v1/larger")
            end = client.end_of("load")
        assert end["error"]["code"] == "out_of_memory", end
    with table.survived("RLIMIT_AS while a picture is drawn", server) as watch:
        client = watch.client()
        with no_more_than(server, 2**20):
            client.request("draw", model="v1/plain", width=640, height=640, num_inference_steps=1)
            end = client.end_of("draw")
        assert end["error"]["code"] == "out_of_memory", end


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare"
)
def test_a_process_without_any_temporary_folder(
    start: Callable[..., Apart], table: Table, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    words = ("unshare", "-m", "sh", "-c", NOWHERE.format(full=full), "sh")
    server = start(*words, env={**os.environ, "TMPDIR": str(full)})
    with table.survived("no temporary folder: one is full, the others read-only", server) as watch:
        assert watch.ask()["type"] == "completed"
