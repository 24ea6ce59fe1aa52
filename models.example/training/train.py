"""Train the example model from nothing: `python models.example/training/train.py`.

Runs all stages in order, or those named; each goes on where an interrupted run stopped (what is
finished is in `--work`). About an hour on two cores; no network, no data set:
the pictures are drawn here. `--threads 1` is fastest where other programs use the machine too.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

import denoiser  # noqa: E402
import embedding  # noqa: E402
import lora  # noqa: E402
import text  # noqa: E402
import vae  # noqa: E402
from data import scenes  # noqa: E402
from export import export  # noqa: E402
from sheet import collect, curve  # noqa: E402

STAGES = ("vae", "text", "latents", "epsilon", "v", "export", "lora", "embedding", "curve")
SEED = 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="checkpoints and logs")
    parser.add_argument("--out", type=Path, default=HERE.parent, help="where v1/, v2/, lora/ … go")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    unknown = set(arguments.stages) - set(STAGES)
    if unknown:
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    return arguments


def _run(stage: str, work: Path, out: Path) -> None:
    if stage == "vae":
        vae.train(work)
    elif stage == "text":
        text.train(work, scenes(12000, seed=2))
    elif stage == "latents":
        denoiser.encode(work, vae.load(work))
    elif stage == "epsilon":
        denoiser.Trainer(work, denoiser.EPSILON).train()
    elif stage == "v":
        denoiser.Trainer(work, denoiser.V).train()
    elif stage == "lora":
        lora.train(work, out / "v1" / "shapes", out / "lora" / f"{lora.NAME}.safetensors")
    elif stage == "embedding":
        target = out / "embeddings" / f"{embedding.WORD}.safetensors"
        embedding.train(work, out / "v1" / "shapes", target)
    elif stage == "curve":
        curve(collect(work, HERE / "curve.csv")).save(HERE / "curve.png", optimize=True)
    else:
        export(work, denoiser.EPSILON, out / "v1" / "shapes")
        export(work, denoiser.V, out / "v2" / "shapes-v")


def main() -> None:
    arguments = _arguments()
    warnings.filterwarnings("ignore", category=FutureWarning)
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    for stage in arguments.stages or STAGES:
        torch.manual_seed(SEED)
        started = time.monotonic()
        _run(stage, arguments.work, arguments.out)
        print(f"{stage}: {(time.monotonic() - started) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
