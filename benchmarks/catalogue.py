"""What looking at a model folder costs: 2,000 files for the first time, and afterwards.

    python benchmarks/catalogue.py [FILES]

The files have real headers and no weights: of ten, eight are LoRAs for SD 1, one is a LoRA for
SDXL and one a checkpoint. No torch.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import headers  # noqa: E402

from runai.engine.catalogue import Catalogue  # noqa: E402
from runai.engine.detection import identify  # noqa: E402
from runai.errors import ModelNotFound  # noqa: E402

KINDS = ["lora-sd1"] * 8 + ["lora-sdxl", "sd1"]


def milliseconds(action: Callable[[], object], times: int) -> float:
    """The mean, after one call that is not counted."""
    action()
    start = time.perf_counter()
    for _ in range(times):
        action()
    return (time.perf_counter() - start) / times * 1e3


def fill(base: Path, files: int) -> None:
    originals = [
        headers.write(base / "v1" / f"0-{i}.safetensors", headers.rows(kind))
        for i, kind in enumerate(KINDS)
    ]
    for i in range(len(KINDS), files):
        path = originals[i % len(KINDS)]
        os.link(path, path.with_name(f"{i}.safetensors"))


def missed(catalogue: Catalogue) -> None:
    try:
        catalogue.find("nothing of that name")
    except ModelNotFound:
        return
    raise AssertionError("it was found")


def main(files: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for kind in ("sd1", "sdxl", "lora-sd1", "lora-sdxl"):
            path = headers.write(base / "one" / f"{kind}.safetensors", headers.rows(kind))
            took = milliseconds(lambda path=path: identify(path), 30)  # type: ignore[misc]
            print(f"identify {kind:10} {took:8.2f} ms")
        fill(base, files)
        start = time.perf_counter()
        catalogue = Catalogue([base])
        found = len(catalogue.entries())
        print(f"first look, {found} files {time.perf_counter() - start:5.2f} s")
        name = catalogue.entries("model")[-1].name
        print(f"find, warm          {milliseconds(lambda: catalogue.find(name), 5000):8.4f} ms")
        print(f"find, nothing there {milliseconds(lambda: missed(catalogue), 500):8.4f} ms")
        print(f"listing             {milliseconds(catalogue.infos, 5):8.1f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
