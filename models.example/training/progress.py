"""What all training stages share: the learning rate's curve, the average of weights, a log, saving.

A stage saves all it needs to go on (weights, their average, optimizer, iteration), so that an
interrupted run loses at most a minute.
"""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path

import torch
from torch import nn

SAVE_EVERY_S = 60.0
REPORT_EVERY = 25


def learning_rate(iteration: int, total: int, peak: float, warm_up: int) -> float:
    """Linear up to `peak`, then half a cosine down to 1 % of it."""
    if iteration < warm_up:
        return peak * (iteration + 1) / warm_up
    done = (iteration - warm_up) / max(1, total - warm_up)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class Average:
    """The exponential moving average of a model's weights, slower as training goes on."""

    def __init__(self, model: nn.Module, slowest: float = 0.998) -> None:
        self.slowest = slowest
        self.weights = {k: v.detach().float().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, iteration: int) -> None:
        decay = min(self.slowest, (iteration + 1) / (iteration + 10))
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.weights[key].lerp_(value.float(), 1 - decay)
            else:
                self.weights[key] = value.clone()


def save(path: Path, state: dict[str, object]) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


class Log:
    """Prints how a stage goes, and appends it to the stage's own csv."""

    def __init__(self, stage: str, total: int, first: int, folder: Path) -> None:
        self.stage, self.total, self.first = stage, total, first
        self.path = folder / f"{stage}.csv"
        self.started = self.saved = time.monotonic()
        self.loss = 0.0
        self.count = 0

    def note(self, iteration: int, loss: torch.Tensor, lr: float) -> None:
        """Count one iteration's loss; every so often print and write the mean."""
        self.loss += float(loss.detach())
        self.count += 1
        if (iteration + 1) % REPORT_EVERY and iteration + 1 != self.total:
            return
        mean = self.loss / self.count
        passed = time.monotonic() - self.started
        speed = (iteration + 1 - self.first) / passed
        left = (self.total - iteration - 1) / speed / 60
        line = f"{self.stage} {iteration + 1}/{self.total} loss {mean:.4f} lr {lr:.1e}"
        print(f"{line} {speed:.2f} it/s, {left:.1f} min left", flush=True)
        self._append([iteration + 1, round(mean, 5), f"{lr:.2e}"])
        self.loss, self.count = 0.0, 0

    def _append(self, row: list[object]) -> None:
        is_new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["iteration", "loss", "lr"])
            writer.writerow(row)

    def is_time_to_save(self, iteration: int) -> bool:
        if iteration + 1 < self.total and time.monotonic() - self.saved < SAVE_EVERY_S:
            return False
        self.saved = time.monotonic()
        return True
