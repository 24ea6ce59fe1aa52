"""Recordings of a UNet's calls on CUDA: its graphs.

(https://docs.pytorch.org/docs/stable/notes/cuda.html, "CUDA Graphs".) All share one pool of memory
and one stream: no two of them are played at the same time, and what they say is copied out before
the next. What cuBLAS works with lies in that pool too, so it must not be more than one pool for a
stream; and where no graph is left of a pool, a new one is begun, since older torches cannot go on
with it. A recording that fails can leave torch's allocator in disorder, of which a further one may
die (https://github.com/pytorch/pytorch/pull/190308): so after one that failed no more are made.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from runai.engine.devices import is_out_of_memory


class CudaGraphs:
    """The `Recorder` of one GPU."""

    def __init__(self, device: torch.device) -> None:
        self.bytes = 0
        self._device = device
        self._pool: Any = None
        self._there = 0  # graphs
        self._failed = False

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._device)

    def __call__(self, call: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        if self._failed:
            raise RuntimeError("a recording has failed before")
        self._failed = True
        try:
            recorded = self._recorded(call)
        except RuntimeError as error:
            self._failed = not is_out_of_memory(error)  # after which torch cleans up
            raise
        self._failed = False
        return recorded

    def _recorded(
        self, call: Callable[[], torch.Tensor]
    ) -> tuple[Callable[[], None], torch.Tensor]:
        graph, device = torch.cuda.CUDAGraph(), self._device
        if not self._there:
            self._pool = torch.cuda.graph_pool_handle()
        recording = torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=self._stream,
            capture_error_mode="thread_local",  # other threads may ask how much memory is free
        )
        # the outer one: where recording fails, the inner one leaves its stream in force
        with torch.cuda.stream(torch.cuda.current_stream(device)), recording:
            before = torch.cuda.memory_reserved(device)
            said = call()
            self.bytes += torch.cuda.memory_reserved(device) - before
        self._there += 1
        weakref.finalize(graph, self._let_go).atexit = False
        return graph.replay, said

    def _let_go(self) -> None:
        """A graph is gone; its memory is when the last one of the pool is."""
        self._there -= 1
        if not self._there:
            self.bytes = 0
