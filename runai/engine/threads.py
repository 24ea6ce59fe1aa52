"""How many threads a processor draws with: all for a network of full size, one for a small one.

A small network is drawn as fast by one thread (the example model's step of 128 × 128 pixels: 57 ms
with one thread, 55 with two), and the other processors are free for clients then. It is a rule and
no measurement, because with another number of threads sums are made in another order: a seed
must give the same picture each time a server runs.
"""

from __future__ import annotations

import torch

from runai.engine.model import LoadedModel

ALL = torch.get_num_threads()  # as torch, or OMP_NUM_THREADS, has chosen before anybody changed it


def set_for(model: LoadedModel) -> None:
    """From now on torch computes with as many threads as are good for this model."""
    if model.device.type == "cpu":
        wanted = 1 if model.is_small else ALL
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)
